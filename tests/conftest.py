from tests.hub_fixtures import hub as hub

"""Does what was found move the outcome? Directions, moves along them, and what they change.

It runs the model through ``extract``, finds directions through ``scorer``, and knows no tensor.
"""

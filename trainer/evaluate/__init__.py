"""How good a model is, measured on images that no fit has seen."""

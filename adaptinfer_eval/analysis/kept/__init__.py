"""Which vision tokens a method kept, as patches of the picture: one way to draw them, for page, figures and demo."""

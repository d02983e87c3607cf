"""How a text came about, made visible: a page that plays it, an animation, a terminal."""

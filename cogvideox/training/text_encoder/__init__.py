"""Training of a small T5 text encoder on toybox captions by span corruption."""

"""The built-in world with known truth: scenes, their pictures, captions, and a judge that reads pictures back."""

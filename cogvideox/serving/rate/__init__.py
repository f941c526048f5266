"""The rating page: a blind study of single videos or pairs."""

"""Filter policies, which select the clips for each training step without deleting any rows."""

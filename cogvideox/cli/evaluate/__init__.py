"""`cogvideox evaluate`: score a model or a folder of videos, compare two evaluations, export to official layouts."""

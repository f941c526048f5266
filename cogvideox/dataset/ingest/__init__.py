"""Reading of user folders with videos and captions: layout detection, scan, clip windows, frames."""

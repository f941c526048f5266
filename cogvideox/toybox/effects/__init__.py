"""Effects with known ground truth, for rendered clips and real footage: camera motion, transitions, freezes, overlays,
slides, screen recordings, talking heads and degradations.

They provide the ground truth on which curation is measured. All are pure functions of frames (uint8 RGB, `t h w c`) and
a seed.

| module | effects |
|---|---|
| `camera` | textured canvases, and a camera that pans, zooms and shakes over them |
| `transitions` | cuts, dissolves, fades, jump cuts |
| `timing` | freezes, slide shows of stills, time lapse |
| `text` | titles, subtitles, watermarks, tickers, text in the scene |
| `scenes` | slides, screen recordings, talking heads |
| `screens` | terminals, scrolled pages, footage in a window, screens before a camera |
| `pages` | rolling credits, title cards, large captions |
| `people` | a drawn presenter, talking photographs |
| `edits` | picture-in-picture, split screens, logos, frames, wipes, color effects |
| `degradation` | compression, blur, noise, exposure, borders, moire |
"""

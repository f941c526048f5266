"""Effects with known truth, on rendered clips and on real footage: camera motion, transitions, freezes, overlays,
slides, screen recordings, talking heads and degradations.

Curation is measured against them: a function that adds something to a clip knows exactly what it added. All are pure
functions of frames (uint8 RGB, `t h w c`) and a seed.

| module | effects |
|---|---|
| `camera` | textured canvases, and a camera that pans, zooms and shakes over them |
| `transitions` | cuts, dissolves, fades, jump cuts |
| `timing` | freezes, slide shows of stills, time lapse |
| `text` | titles, subtitles, watermarks, tickers, text in the scene |
| `scenes` | slides, screen recordings, talking heads |
| `degradation` | compression, blur, noise, exposure, borders, moire |
"""

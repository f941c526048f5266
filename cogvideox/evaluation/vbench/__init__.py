"""Five dimensions of VBench (Huang et al. 2024), scored by the rules of its official tools, with pluggable models.

| dimension | model | rule (`rules`) |
|---|---|---|
| human action | action classifier | the named action is among the five most probable, with 0.85 or more |
| scene | captioner | frames whose caption has all words of the scene's name |
| multiple objects | object detector | frames that show both objects |
| dynamic degree | optical flow | enough pairs of frames whose fastest 5 % of pixels move more than a threshold |
| appearance style | CLIP | mean similarity of frames and the name of the style |

`pieces` has the protocol for long videos (VBench-Long), and `scorer` the official bugs that are not copied by default.
"""

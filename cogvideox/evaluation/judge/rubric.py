"""The instructions of GPT4o-MTScore, frozen word for word: scores depend on them.

Source: PKU-YuanGroup/ChronoMagic-Bench, `GPT4o_MTScore/step1-get_temp_results.py` at commit e6b75ff (Apache-2.0).
"""

# ruff: noqa: E501, W291

ID, VERSION = "chronomagic-mtscore", 1
"""Name and version of the instructions, in cache keys and protocols."""

OFFICIAL_MODEL = "gpt-4o-2024-05-13"
"""The judge of published scores."""

RUBRIC = """
Suppose you are a data rater, specialized in generating scores for time-lapse videos. You will be supplied with eight key frames extracted from a video, each with a filename labeled with its position in the video sequence. Your task is to rate the variation of this time-lapse video on a scale of 5. The scoring criteria are as follows:
1: Minimal change. The scene appears almost like a still image, with static elements remaining motionless and only minor changes in lighting or subtle movements of elements. No significant activity is noticeable.
2: Slight change. There is a small amount of movement or change in the elements of the scene, such as a few people or vehicles moving and minor changes in light or shadows. The overall variation is still minimal, with changes mostly being quantitative.
3: Moderate change. Multiple elements in the scene undergo changes, but the overall pace is slow. This includes gradual changes in daylight, moving clouds, growing plants, or occasional vehicle and pedestrian movements. The scene begins to show a transition from quantitative to qualitative change.
4: Significant change. The elements in the scene show obvious dynamic changes with a higher speed and frequency of variation. This includes noticeable changes in city traffic, crowd activities, or significant weather transitions. The scene displays a mix of quantitative and qualitative changes.
5: Dramatic change. Elements in the scene undergo continuous and rapid significant changes, creating a very rich visual effect. This includes events like sunrise and sunset, construction of buildings, and seasonal changes, making the variation process vivid and impactful. The scene exhibits clear qualitative change.

For guidance on the expected format, refer to the provided examples: 

Brief Reasoning Statement: The changes in the frames are quite significant as we see the progression of the 3D print from start to finish. The variation in the video includes the build-up of the print layer by layer, showing dynamic changes and detailed progress. The scene exhibits both quantitative changes (incremental addition of the print layers) and qualitative changes (completed print and human interaction).
"Score":{4}

Brief Reasoning Statement: The changes in the frames show a significant dynamic process of a lunar eclipse. The video captures the progression from a full moon to a full lunar eclipse and back to a more visible moon, showcasing both quantitative (shadow coverage) and qualitative (color change) changes. The visual effect is rich, with continuous and rapid significant changes in the moon's appearance.
"Score":{5}

Brief Reasoning Statement: The changes in the frames show moderate to significant dynamic activity. The light trails from boats and water traffic, as well as cloud movement, create visual changes that is quantitative. The visual effect includes ongoing changes, but they are not as rapid or continuous as some more dramatic scenes.
"Score":{3}

Attention: Do not reply outside the example template! Below are the video title and input frames:
"""

// Videos that are prefetched, and start and loop in sync.

import { element } from "./kit.js";

const SPEEDS = [1, 2, 0.5];
const FRAME_SECONDS = 1 / 16;

/** Whole videos in memory, by URL, so that the next ones start at once. */
export class Prefetch {
  #blobs = new Map();

  get(url) {
    if (!this.#blobs.has(url)) {
      const loading = fetch(url).then(async (response) => {
        if (!response.ok) throw new Error("A video cannot be loaded; reload the page.");
        return URL.createObjectURL(await response.blob());
      });
      loading.catch(() => this.#blobs.delete(url));
      this.#blobs.set(url, loading);
    }
    return this.#blobs.get(url);
  }

  /** Load these videos, in order, and drop all others. */
  keep(urls) {
    for (const [url, loading] of this.#blobs) {
      if (!urls.includes(url)) {
        this.#blobs.delete(url);
        loading.then(URL.revokeObjectURL).catch(() => {});
      }
    }
    for (const url of urls) this.get(url).catch(() => {});
  }
}

export class Stage {
  /** onSeen is called when all videos have been played to the end once. */
  constructor(container, prefetch, onSeen) {
    this.container = container;
    this.prefetch = prefetch;
    this.onSeen = onSeen;
    this.videos = [];
    this.speed = 0;
    this.seen = false;
    this.generation = 0;
  }

  async show(urls, labels) {
    const generation = ++this.generation;
    this.seen = false; // also while the videos are loading
    for (const video of this.videos) video.pause();
    const sources = await Promise.all(urls.map((url) => this.prefetch.get(url)));
    const videos = sources.map((source, index) => {
      const video = element("video", { playsinline: true, preload: "auto", "aria-label": labels[index] });
      video.muted = true;
      video.src = source;
      return video;
    });
    await Promise.all(videos.map((video) => new Promise((resolve, reject) => {
      video.addEventListener("canplaythrough", resolve, { once: true });
      video.addEventListener("error", () => reject(new Error("A video cannot be played in this browser.")), { once: true });
      video.load();
    })));
    if (generation !== this.generation) return;
    this.videos = videos;
    this.container.classList.toggle("single", videos.length === 1);
    this.container.replaceChildren(...videos.map((video, index) => {
      const caption = videos.length > 1 ? element("figcaption", {}, labels[index]) : null;
      return element("figure", {}, video, caption);
    }));
    for (const video of videos) video.addEventListener("ended", () => this.#ended(generation));
    this.replay();
  }

  replay() {
    for (const video of this.videos) {
      video.currentTime = 0;
      video.playbackRate = SPEEDS[this.speed];
      video.play().catch(() => {});
    }
  }

  /** Pause all videos, and move them by a number of frames. */
  step(frames) {
    for (const video of this.videos) {
      video.pause();
      video.currentTime = Math.min(Math.max(0, video.currentTime + frames * FRAME_SECONDS), video.duration);
    }
  }

  togglePause() {
    const paused = this.videos.some((video) => video.paused);
    for (const video of this.videos) paused ? video.play().catch(() => {}) : video.pause();
  }

  /** Choose the next speed, and return it. */
  nextSpeed() {
    this.speed = (this.speed + 1) % SPEEDS.length;
    for (const video of this.videos) video.playbackRate = SPEEDS[this.speed];
    return SPEEDS[this.speed];
  }

  #ended(generation) {
    if (generation !== this.generation || !this.videos.every((video) => video.ended)) return;
    if (!this.seen) {
      this.seen = true;
      this.onSeen();
    }
    this.replay();
  }
}

// Questions to the kernel and their answers: the page's end of kit/wire.py.

/**
 * A widget's model, as anywidget hands it to render().
 * @typedef {object} Model
 * @property {(name: string) => any} get
 * @property {(name: string, value: unknown) => void} set
 * @property {() => void} save_changes
 * @property {(content: unknown) => void} send
 * @property {(event: string, callback: (...given: any[]) => void) => void} on
 * @property {(event: string, callback: (...given: any[]) => void) => void} off
 */

/** @typedef {{value: any, buffers: DataView[]}} Answer */

/**
 * repeat: ask again every second until it is answered: right after a page was loaded again, a message is lost now and then.
 * latest: earlier questions of the same `latest` that wait for their answers are dropped. patience: milliseconds.
 * @typedef {{repeat?: boolean, latest?: string, patience?: number}} Manner
 */

const PATIENCE_MS = 4000;
const AGAIN_MS = 1000;
export const NO_ANSWER = "No answer from the kernel: it is busy with a cell, or it was restarted; then run this cell again.";

/** No answer came in time, or the question could not be sent. */
export class NoAnswer extends Error {
  constructor() {
    super(NO_ANSWER);
  }
}

/** The view refused the question; the message says why. */
export class Refused extends Error {}

/** A newer question took the place of this one, or the page was taken away: nobody waits for the answer. */
export class Dropped extends Error {}

/** For a promise's catch: nothing is to be done where nobody waits any more; any other error is handed on. */
export function unlessDropped(/** @type {(error: Error) => void} */ failed) {
  return (/** @type {Error} */ error) => {
    if (!(error instanceof Dropped)) failed(error);
  };
}

/**
 * Returns {ask(name, args, manner) → Promise<Answer>, tell(changes) → Promise once the kernel is known to be there, close()}.
 * ask rejects with NoAnswer, Refused or Dropped.
 * @param {Model} model
 */
export function openWire(model) {
  /** @type {Map<string, {latest: string, settle: () => void, resolve: (answer: Answer) => void, reject: (error: Error) => void}>} */
  const waiting = new Map();
  const own = Math.random().toString(36).slice(2); // two displays of a view share the model
  let count = 0;

  /** @type {(message: any, buffers?: DataView[]) => void} */
  function receive(message, buffers) {
    const asked = waiting.get(message?.answer);
    if (asked === undefined) return;
    asked.settle();
    if (message.refused === undefined) asked.resolve({ value: message.value, buffers: buffers ?? [] });
    else asked.reject(new Refused(message.refused));
  }
  model.on("msg:custom", receive);

  /** @type {(name: string, args?: object, manner?: Manner) => Promise<Answer>} */
  function ask(name, args = {}, { repeat = false, latest = "", patience = PATIENCE_MS } = {}) {
    if (latest) drop((each) => each.latest === latest);
    const id = `${own} ${(count += 1)}`;
    return new Promise((resolve, reject) => {
      /** @type {ReturnType<typeof setInterval> | undefined} */
      let again;
      const settle = () => {
        clearTimeout(late);
        clearInterval(again);
        waiting.delete(id);
      };
      const giveUp = () => {
        settle();
        reject(new NoAnswer());
      };
      const send = () => {
        try {
          model.send({ ask: name, id, args });
        } catch {
          giveUp();
        }
      };
      const late = setTimeout(giveUp, patience);
      waiting.set(id, { latest, settle, resolve, reject });
      if (repeat) again = setInterval(send, AGAIN_MS);
      send();
    });
  }

  /** @param {(asked: {latest: string}) => boolean} which */
  function drop(which) {
    for (const asked of [...waiting.values()]) {
      if (!which(asked)) continue;
      asked.settle();
      asked.reject(new Dropped());
    }
  }

  /**
   * Set traits of the view, and learn whether the kernel is there to see it.
   * @param {Record<string, unknown>} changes
   */
  async function tell(changes) {
    try {
      for (const [name, value] of Object.entries(changes)) model.set(name, value);
      model.save_changes();
    } catch {
      throw new NoAnswer();
    }
    return ask("ping", {}, { latest: `tell ${Object.keys(changes)}` });
  }

  return {
    ask,
    tell,
    close() {
      model.off("msg:custom", receive);
      drop(() => true);
    },
  };
}

/** @typedef {ReturnType<typeof openWire>} Wire */

/**
 * Answers that are drawn when they are there: get(args, then, asking) gives one that is, else null, and asks for it, unless asking
 * is false; then() is called once it has come. Where none comes for so long, the next get() asks again. read: what is kept of an
 * answer. most: how many are kept; the oldest go.
 * @template Value
 * @param {Wire} wire
 * @param {string} name
 * @param {(answer: Answer) => Value} read
 */
export function answerStore(wire, name, read, { most = 600, patience = 20000 } = {}) {
  /** @type {Map<string, {value: Value} | null>} */
  const kept = new Map();
  /** @type {(key: string, value: {value: Value} | null) => void} */
  function keep(key, value) {
    kept.delete(key);
    kept.set(key, value);
    if (kept.size > most) kept.delete(/** @type {string} */ (kept.keys().next().value));
  }
  return {
    /**
     * @param {object} args
     * @param {() => void} then
     * @returns {Value | null}
     */
    get(args, then, asking = true) {
      const key = JSON.stringify(args);
      const there = kept.get(key);
      if (there !== undefined || !asking) return there?.value ?? null;
      keep(key, null);
      wire.ask(name, args, { patience }).then(
        (answer) => {
          keep(key, { value: read(answer) });
          then();
        },
        (error) => {
          if (!(error instanceof Refused)) kept.delete(key);
        },
      );
      return null;
    },
  };
}

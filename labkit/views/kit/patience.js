// How long a view waits for its kernel, and what it says then.

const PATIENCE_MS = 4000;
const AGAIN_MS = 1000; // right after a page was loaded again, a message is lost now and then
export const NO_ANSWER = "No answer from the kernel: it is busy with a cell, or it was restarted; then run this cell again.";

/**
 * The kernel answers each request at once; where no answer comes in time, or the request can't be sent, giveUp() says so.
 * Returns {ask(request, again), expect(), answered()}. again: the request may be made more than once, and is until it is
 * answered. expect: a request was sent. answered: an answer came, or nobody waits for it.
 * @param {() => void} giveUp
 */
export function patience(giveUp) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let repeat;
  function answered() {
    clearTimeout(timer);
    clearInterval(repeat);
  }
  function expect() {
    answered();
    timer = setTimeout(() => {
      answered();
      giveUp();
    }, PATIENCE_MS);
  }
  /** @param {() => void} request */
  function ask(request, again = false) {
    const send = () => {
      try {
        request();
      } catch {
        answered();
        giveUp();
      }
    };
    expect();
    if (again) repeat = setInterval(send, AGAIN_MS);
    send();
  }
  return { ask, expect, answered };
}

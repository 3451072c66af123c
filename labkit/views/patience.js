// How long a view waits for its kernel, and what it says then.

const PATIENCE_MS = 4000;
export const NO_ANSWER = "No answer from the kernel: it is busy with a cell, or it was restarted; then run this cell again.";

/**
 * The kernel answers each request at once; where no answer comes in time, or the request can't be sent, giveUp() says so.
 * Returns {ask(request), expect(), answered()}. expect: a request was sent. answered: an answer came, or nobody waits for it.
 */
export function patience(giveUp) {
  let timer = null;
  const answered = () => clearTimeout(timer);
  function expect() {
    answered();
    timer = setTimeout(giveUp, PATIENCE_MS);
  }
  function ask(request) {
    expect();
    try {
      request();
    } catch {
      answered();
      giveUp();
    }
  }
  return { ask, expect, answered };
}

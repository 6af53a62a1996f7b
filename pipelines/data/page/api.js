// The service's HTTP interface: JSON, errors as sentences, server-sent events, waiting when told.

const AGAIN = [429, 503];
const LONGEST_WAIT = 30;
// A picture that the service has no room for is asked for again for so long.
const PATIENCE = 600;
// Together: more only wait in the service's queue, and use up its rate.
const AT_ONCE = 6;

/** An answer other than 2xx: the service's code and sentence. */
export class ServiceError extends Error {
  constructor(status, code, message, retryAfter = null, faces = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter, faces });
  }
}

// In memory only: a key in the browser's storage would outlive the visit.
let key = null;

export const setKey = (value) => { key = value; };
export const hasKey = () => key !== null;

/** The address of the service without a slash at its end, for code that is run elsewhere. */
export const server = () => new URL(".", document.baseURI).href.replace(/\/$/, "");

const headers = () => (key === null ? {} : { Authorization: `Bearer ${key}` });

async function refusal(response) {
  const told = Number(response.headers.get("Retry-After"));
  const error = await response.json().then((body) => body.error).catch(() => null);
  return new ServiceError(
    response.status,
    error?.code ?? `http_${response.status}`,
    error?.message ?? `The server answered ${response.status} ${response.statusText}.`,
    told > 0 ? told : null,
    error?.faces ?? null,
  );
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "unreachable", "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const get = async (path) => (await send(path, {})).json();

/** Tokens of a prompt with its style, and how many there may be. */
export const countTokens = async (prompt, style) => (await send("v1/tokens", {
  method: "POST",
  body: JSON.stringify({ prompt, style: style || null }),
  headers: { "Content-Type": "application/json" },
})).json();

/** Embeds a person; `photos` are Files, or null with the name of a sample. */
export async function addIdentity(photos, sample, face, signal) {
  const form = new FormData();
  if (photos) photos.forEach((photo, n) => form.append("photos", photo, `photo-${n}`));
  else form.append("sample", sample);
  form.append("face", face);
  return (await send("v1/identities", { method: "POST", body: form, signal })).json();
}

/** Makes the service forget a person. */
export const removeIdentity = (id) => send(`v1/identities/${id}`, { method: "DELETE" });

/**
 * Makes one picture and calls `on(name, data)` for each event on the way.
 * Where the service is full it is asked again, after `on("waiting", {seconds})`.
 */
export async function generate(body, on, signal) {
  const end = performance.now() + PATIENCE * 1000;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await inTurn(() => attemptOnce(body, on, signal), signal);
    } catch (error) {
      const told = error.retryAfter ?? 0;
      const doubled = Math.min(LONGEST_WAIT, 2 ** (attempt - 1));
      // Never sooner than told; spread, so that those who were refused together do not come together.
      const seconds = Math.max(told, doubled / 2) * (1 + Math.random() / 2);
      if (!AGAIN.includes(error.status) || performance.now() + seconds * 1000 > end) throw error;
      on("waiting", { seconds: Math.ceil(seconds) });
      await pause(seconds, signal);
    }
  }
}

let running = 0;
const line = [];

/** Runs `work` once fewer than AT_ONCE others run. */
async function inTurn(work, signal) {
  if (running >= AT_ONCE) await new Promise((go) => { line.push(go); });
  running += 1;
  try {
    signal.throwIfAborted();
    return await work();
  } finally {
    running -= 1;
    line.shift()?.();
  }
}

async function attemptOnce(body, on, signal) {
  const response = await send("v1/generate", {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    headers: { "Content-Type": "application/json" },
    signal,
  });
  let result = null;
  try {
    // To its end, which comes with the result: a stream that is left earlier counts as aborted.
    for await (const [name, data] of events(response.body)) {
      if (name === "error") {
        throw new ServiceError(data.status ?? 500, data.code, data.message, data.retry_after);
      }
      if (name === "result") result = data;
      else on(name, data);
    }
  } catch (error) {
    if (error instanceof ServiceError || error.name === "AbortError") throw error;
    throw new ServiceError(0, "unreachable", "The connection to the server was lost.");
  }
  if (result) return result;
  throw new ServiceError(0, "unreachable", "The server's answer ended without a picture.");
}

/** [name, data] of each event in a stream of bytes. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.match(new RegExp(`^${name}: ?(.*)$`, "m"))?.[1];
      if (field("data")) yield [field("event"), JSON.parse(field("data"))];
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

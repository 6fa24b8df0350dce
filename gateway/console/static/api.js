// Calls of the API. The key travels in the Authorization header and nowhere else.

export class Problem extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  async #send(method, path, body, signal) {
    const headers = {};
    if (this.#key) headers.Authorization = `Bearer ${this.#key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "omit", cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "unreachable", "The server does not answer.");
    }
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  async call(method, path, body, signal) {
    return (await this.#send(method, path, body, signal)).json();
  }

  get(path) {
    return this.call("GET", path);
  }

  // Every event of a stream, parsed; ends with [DONE]. Aborting the signal closes the connection, which ends the
  // generation on the server.
  async *stream(path, body, signal) {
    const response = await this.#send("POST", path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Problem(0, "cut", "The stream broke off.");
      held += value;
      const lines = held.split("\n");
      held = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        const data = line.slice(6);
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Problem(200, event.error.code, event.error.message);
        yield event;
      }
    }
  }
}

async function problemOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || undefined;
  let error = {};
  try {
    error = (await response.json()).error || {};
  } catch {
    // Something in between answered.
  }
  const text = error.message || `The server answered ${response.status}.`;
  return new Problem(response.status, error.code, retryAfter ? `${text} Retry in ${retryAfter} s.` : text, retryAfter);
}

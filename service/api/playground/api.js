// The service's HTTP API; see openapi.json.

const PREVIEWS = 3;
const KEY = "darkroom.key";
const BROKEN = "The connection broke off.";

export class ApiError extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param; // the field of the request that is to blame
  }
}

export const models = async () => (await json("v1/models")).data;

export const presets = () => json("v1/presets");

export const explain = (body, signal) => json("v1/explain", { body, signal });

// One picture. `progress` is told what is known on the way: {ahead} in the queue, or {step, steps, url} of a preview.
export async function generate(body, signal, progress) {
  const asked = { partial_images: PREVIEWS, ...body, stream: true };
  const response = await send("v1/images/generations", { body: asked, signal, headers: { "x-request-id": requestId() } });
  let last;
  for await (last of events(response.body)) {
    if (last.comment) progress({ ahead: parseInt(last.comment) });
    if (last.event === "image_generation.partial_image") progress({ ...last.data, url: pictureUrl(last.data) });
  }
  const { error, recipe, timings } = last?.data ?? {};
  if (error) throw new ApiError(error.message, error.param);
  if (last?.event !== "image_generation.completed") throw new ApiError(BROKEN);
  const blob = pictureBlob(last.data);
  return { recipe, timings, blob, url: URL.createObjectURL(blob) };
}

// A larger picture, as a file. `how`: factor and method.
export const upscale = async (blob, how, signal) => {
  const path = `v1/images/upscale?${new URLSearchParams(how)}`;
  const headers = { "Accept": "image/png", "x-request-id": requestId() };
  return (await send(path, { blob, signal, headers })).blob().catch(unlessAborted(BROKEN));
};

// The server-sent events of a body; the browser's own EventSource cannot POST.
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const read = () => reader.read().catch(unlessAborted(BROKEN));
  let pending = "";
  for (let part = await read(); !part.done; part = await read()) {
    const blocks = (pending + decoder.decode(part.value, { stream: true })).split("\n\n");
    pending = blocks.pop();
    yield* blocks.map(event);
  }
}

// Lines of `name: value`; a comment is one without a name.
function event(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  }));
  return { event: fields.event, data: fields.data && JSON.parse(fields.data), comment: fields[""] };
}

// The picture's name in the service's log; crypto.randomUUID is for https only.
function requestId() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(12))];
  return `page-${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function pictureBlob({ b64_json: text, output_format: format }) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Blob([bytes], { type: `image/${format}` });
}

const pictureUrl = (data) => URL.createObjectURL(pictureBlob(data));

async function json(path, options) {
  const answer = await (await send(path, options)).json().catch(() => null);
  if (answer) return answer;
  throw new ApiError("The service's answer is not JSON.");
}

async function send(path, options = {}) {
  const { blob, signal, headers } = options;
  const body = blob ?? (options.body && JSON.stringify(options.body));
  const key = sessionStorage.getItem(KEY);
  const request = {
    headers: { ...(body && { "Content-Type": blob?.type ?? "application/json" }), ...(key && { Authorization: `Bearer ${key}` }), ...headers },
    ...(body && { method: "POST", body, signal }),
  };
  const response = await fetch(path, request).catch(unlessAborted("The service does not answer."));
  if (response.ok) return response;
  if (response.status === 401 && newKey(key)) return send(path, options);
  const answer = await response.json().catch(() => null);
  const { message = `The service answered ${response.status}.`, param } = answer?.error ?? {};
  const wait = response.headers.get("retry-after");
  throw new ApiError(wait ? `${message} (again in ${wait} s)` : message, param);
}

// Another key than the refused one: entered meanwhile, or asked for now; kept until the tab is closed.
function newKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return true;
  const key = window.prompt("This service asks for an API key.");
  if (key) sessionStorage.setItem(KEY, key.trim());
  return Boolean(key);
}

function unlessAborted(message) {
  return (error) => {
    throw error.name === "AbortError" ? error : new ApiError(message);
  };
}

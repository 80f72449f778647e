// The service's HTTP API; see openapi.json.

export class ApiError extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param; // the field of the request that is to blame
  }
}

export const models = async () => (await call("v1/models")).data;

export const presets = () => call("v1/presets");

export const explain = (body, signal) => call("v1/explain", body, signal);

export async function generate(body, signal) {
  const [made] = (await call("v1/images/generations", body, signal)).data;
  const bytes = Uint8Array.from(atob(made.b64_json), (char) => char.charCodeAt(0));
  return { recipe: made.recipe, timings: made.timings, url: URL.createObjectURL(new Blob([bytes], { type: "image/png" })) };
}

async function call(path, body, signal) {
  const request = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  };
  const response = await fetch(path, request).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service does not answer.");
  });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const { message = `The service answered ${response.status}.`, param } = answer?.error ?? {};
  const wait = response.headers.get("retry-after");
  throw new ApiError(wait ? `${message} (again in ${wait} s)` : message, param);
}

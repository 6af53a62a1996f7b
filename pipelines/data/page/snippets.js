// The same request as a shell script with curl and as Python with infinite_id.client.

import { hasKey, server } from "./api.js";

/** Regions of two people, left and right: x0, y0, x1, y1 in fractions of the picture. */
export const HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]];

// In shell single quotes; a quote inside leaves them for a moment.
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// JSON that can stand in shell single quotes: \u0027 is a quote to JSON and nothing to the shell.
const json = (value) => JSON.stringify(value).replaceAll("'", "\\u0027");
// A JSON string is a Python string.
const python = (value) => JSON.stringify(value);

// What differs from the service's own: field of the API -> value of the order.
const extras = (order) => Object.entries({
  negative_prompt: order.negative || null,
  guidance_scale: order.guidance ?? null,
  identity_scale: order.scale ?? null,
  width: order.width ?? null,
  height: order.height ?? null,
  strength: order.strength ?? null,
}).filter(([, value]) => value !== null);

// Field of the API -> name of its file.
const files = (order) => Object.entries(order.pictures ?? {}).map(([field, { name }]) => [field, name]);
const severalSeeds = ({ mode }) => mode === "pictures" || mode === "together";

/** `order` as of page.js -> text. */
export function curl(order) {
  const auth = hasKey() ? ` -H "Authorization: Bearer $INFINITE_ID_API_KEY"` : "";
  const add = (source) => {
    const form = source.sample
      ? [shell(`sample=${source.sample}`)]
      : source.names.map((name) => shell(`photos=@"${name.replace(/["\\]/g, "\\$&")}"`));
    if (source.face !== "single") form.push(`face=${source.face}`);
    return `$(curl -fsS "$SERVER/v1/identities"${auth} ${form.map((part) => `-F ${part}`).join(" ")} |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["identity_id"])')`;
  };
  const lines = [`SERVER=${shell(server())}`];
  order.sources.forEach((source, n) => lines.push(`${"AB"[n]}=${add(source)}`));

  const loops = [];
  const fields = {};
  let file = "";
  // One value stands in the JSON; several are looped over, left out of the quotes and spliced in.
  const each = (field, variable, values, quote) => {
    const one = values.length === 1;
    if (!one) loops.push(`for ${variable} in ${values.join(" ")}; do`);
    fields[field] = one ? json(values[0]) : quote + `'$${variable}'` + quote;
    file += one ? "" : `-$${variable}`;
  };
  each("method", "METHOD", order.methods, '"');
  if (order.mode === "sheet") each("style", "STYLE", order.styles, '"');
  else if (order.style) fields.style = json(order.style);
  const seeds = severalSeeds(order) ? order.count : 1;
  each("seed", "SEED", Array.from({ length: seeds }, (_, n) => order.seed + n), "");
  if (order.mode === "blend") {
    loops.push(`for WEIGHTS in ${order.weights.map((w) => `${1 - w}:${w}`).join(" ")}; do`);
    fields.mix = `[{"identity_id": "'$A'", "weight": '\${WEIGHTS%:*}'},
    {"identity_id": "'$B'", "weight": '\${WEIGHTS#*:}'}]`;
    file += "-${WEIGHTS#*:}";
  } else if (order.mode === "together") {
    const members = HALVES.map((region, n) => `{"identity_id": "'$${"AB"[n]}'", "region": ${json(region)}}`);
    fields.group = `[${members.join(",\n    ")}]`;
  } else {
    fields.identity_id = `"'$A'"`;
  }
  for (const [name, value] of extras(order)) fields[name] = json(value);
  if (order.details === false) fields.details = false;
  for (const [field, name] of files(order)) fields[field] = `"'"$(base64 < ${shell(name)} | tr -d '\\n')"'"`;
  Object.assign(fields, { prompt: json(order.prompt), steps: order.steps, response: '"image"' });
  lines.push(
    ...loops,
    // A picture is too long for an argument of curl's; printf is the shell's own.
    ...(files(order).length ? ["printf %s '{"] : [
      `curl -fsS "$SERVER/v1/generate"${auth} -H 'Content-Type: application/json' \\`,
      `  -o "picture${file}.png" -d '{`,
    ]),
    Object.entries(fields).map(([name, value]) => `  "${name}": ${value}`).join(",\n"),
    ...(files(order).length ? [
      `}' | curl -fsS "$SERVER/v1/generate"${auth} -H 'Content-Type: application/json' \\`,
      `  -o "picture${file}.png" -d @-`,
    ] : ["}'"]),
  );
  if (loops.length) lines.push(loops.map(() => "done").join("; "));
  return lines.join("\n");
}

/** `order` as of page.js -> text. */
export function pythonCode(order) {
  const add = (source) => {
    const given = source.sample ? [`sample=${python(source.sample)}`] : source.names.map(python);
    if (source.face === "largest") given.push(`face="largest"`);
    else if (source.face !== "single") given.push(`face=${source.face}`);
    return `client.add_identity(${given.join(", ")})`;
  };
  const blend = order.mode === "blend";
  const who = { blend: "mix={first: 1 - weight, second: weight}", together: "group=[first, second]" }[order.mode];
  const names = who ? ["first", "second"] : ["person"];
  const lines = ["from infinite_id.client import Client", ""];
  if (hasKey()) lines.push("# The key is read from INFINITE_ID_API_KEY.");
  lines.push(`with Client(${python(server())}) as client:`);
  order.sources.forEach((source, n) => lines.push(`    ${names[n]} = ${add(source)}`));
  let indent = "    ";
  const loop = (name, values) => {
    lines.push(`${indent}for ${name} in ${values}:`);
    indent += "    ";
  };
  const [method] = order.methods.map(python);
  if (order.methods.length > 1) loop("method", `[${order.methods.map(python).join(", ")}]`);
  if (order.mode === "sheet") loop("style", `[${order.styles.map(python).join(", ")}]`);
  if (blend) loop("weight", `[${order.weights.join(", ")}]`);
  const style = order.mode === "sheet" ? "style" : order.style && python(order.style);
  const given = [
    python(order.prompt),
    who ?? "identity=person",
    order.mode === "together" && `regions=${python(HALVES)}`,
    order.methods.length > 1 ? "method=method" : `method=${method}`,
    style && `style=${style}`,
    `seed=${order.seed}`,
    severalSeeds(order) && order.count > 1 && `n=${order.count}`,
    `steps=${order.steps}`,
    ...extras(order).map(([name, value]) => `${name}=${python(value)}`),
    order.details === false && "details=False",
    ...files(order).map(([field, name]) => `${field}=${python(name)}`),
    "scores=True",
  ].filter(Boolean);
  lines.push(
    `${indent}made = client.generate(`,
    ...given.map((argument) => `${indent}    ${argument},`),
    `${indent})`,
    `${indent}print(*made.save("pictures"))`,
  );
  return lines.join("\n");
}

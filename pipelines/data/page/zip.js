// A zip file of files that are packed already: stored, not compressed.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** Numbers as little-endian bytes: [value, bytes] pairs. */
function record(...fields) {
  const bytes = [];
  for (const [value, size] of fields) {
    for (let n = 0; n < size; n += 1) bytes.push(Math.floor(value / 256 ** n) % 256);
  }
  return Uint8Array.from(bytes);
}

/** [{name, blob}] -> a Blob. Names are unique. */
export async function zip(files) {
  const parts = [];
  const entries = [];
  let place = 0;
  for (const { name, blob } of files) {
    const title = new TextEncoder().encode(name);
    const bytes = new Uint8Array(await blob.arrayBuffer());
    // Version 2.0, names in UTF-8, stored; 1 January 1980; checksum, sizes, length of the name.
    const about = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2],
      [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [title.length, 2], [0, 2]];
    const head = record([0x04034b50, 4], ...about);
    parts.push(head, title, bytes);
    entries.push(record([0x02014b50, 4], [20, 2], ...about, [0, 2], [0, 2], [0, 2], [0, 4], [place, 4]), title);
    place += head.length + title.length + bytes.length;
  }
  const size = entries.reduce((sum, part) => sum + part.length, 0);
  const end = record([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [place, 4], [0, 2]);
  return new Blob([...parts, ...entries, end], { type: "application/zip" });
}

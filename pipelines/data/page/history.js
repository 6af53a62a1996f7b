// Runs of earlier visits, in this browser's own storage (IndexedDB); nothing of it is sent anywhere.

const KEPT = 40;
let opened = null;

function base() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("infinite-id", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("runs", { keyPath: "id" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opened;
}

async function ask(mode, what) {
  const store = (await base()).transaction("runs", mode).objectStore("runs");
  return new Promise((resolve, reject) => {
    const asked = what(store);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/** Keeps a run, `{id, ...}`, over one of the same id; the oldest of too many go. */
export async function keep(run) {
  await ask("readwrite", (store) => store.put(run));
  const ids = await ask("readonly", (store) => store.getAllKeys());
  for (const id of ids.sort((a, b) => a - b).slice(0, -KEPT)) await drop(id);
}

/** Forgets a run. */
export const drop = (id) => ask("readwrite", (store) => store.delete(id));

/** Forgets all runs. */
export const clear = () => ask("readwrite", (store) => store.clear());

/** The runs that are kept, the newest first. */
export const runs = async () => (await ask("readonly", (store) => store.getAll())).sort((a, b) => b.id - a.id);

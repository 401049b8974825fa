// JSON as docs/format.md wants it: an object's keys differ, and 3.0 is no integer.

/** A number that is not written as an integer. */
export class Float {
  constructor(value) {
    this.value = value;
  }
}

const TOKEN = /\s*([{}[\]:,"]|[^\s{}[\]:,"]+)/y;

/** The values of a text, with a Float for each number that is not written as an integer. Throws Error. */
export function parseJson(text) {
  JSON.parse(text); // the grammar, and a limit to nothing else
  TOKEN.lastIndex = 0;
  const next = () => {
    const token = TOKEN.exec(text)[1];
    return token === '"' ? string() : token;
  };
  const string = () => {
    let end = TOKEN.lastIndex;
    // Not by the expression: it keeps a place to come back to for each escape, more than its stack holds.
    while (text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
    const begin = TOKEN.lastIndex - 1;
    TOKEN.lastIndex = end + 1;
    return text.slice(begin, end + 1);
  };
  const value = (token) => {
    if (token === "{") return object();
    if (token === "[") return list();
    const plain = JSON.parse(token);
    if (typeof plain !== "number") return plain;
    if (!Number.isFinite(plain)) throw new Error("a number is out of range");
    return /^-?\d{1,15}$/.test(token) ? plain : new Float(plain);
  };
  const list = () => {
    const items = [];
    let token = next();
    if (token === "]") return items;
    for (;;) {
      items.push(value(token));
      if (next() === "]") return items;
      token = next();
    }
  };
  const object = () => {
    const members = new Map();
    let token = next();
    while (token !== "}") {
      const key = JSON.parse(token);
      if (members.has(key)) throw new Error(`the key ${JSON.stringify(key)} is there twice`);
      next(); // the colon
      members.set(key, value(next()));
      token = next();
      if (token === ",") token = next();
    }
    return members;
  };
  return value(next());
}

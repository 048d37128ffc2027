"use strict";
// Asks the server for predictions and shows them. Texts are always set as text, never parsed as HTML.
const at = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const MOST_IMAGE_BYTES = 20 * 1024 * 1024;
let models = [], image = null, gold = null, asked = 0;

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function said(tag, className, text) {
  const made = make(tag, className, text);
  made.dir = "auto";
  return made;
}

async function ask(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server cannot be reached; is it still running?");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error?.message || `the server answers ${response.status}`);
  return found;
}

function showError(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

function showImage(shown, name) {
  at("image").hidden = !shown;
  if (shown) at("image").src = shown; else at("image").removeAttribute("src");
  at("hint").textContent = shown ? "" : name || "Drop, paste or choose an image";
  at("without").hidden = image === null;
}

function take(file) {
  if (!file) return;
  if (file.size > MOST_IMAGE_BYTES) {
    showError(new Error(`the image has ${file.size.toLocaleString("en")} bytes, more than ${MOST_IMAGE_BYTES.toLocaleString("en")}`));
    return;
  }
  const reader = new FileReader();
  reader.onerror = () => showError(new Error("the image cannot be read"));
  reader.onload = () => {
    const [, data] = String(reader.result).split(",");
    image = `data:${/^image\/[\w.+-]+$/.test(file.type) ? file.type : "application/octet-stream"};base64,${data || ""}`;
    forgetGold();
    showError(null);
    showImage(image.startsWith("data:image/") ? image : "", `${file.name}, ${file.size.toLocaleString("en")} bytes`);
  };
  reader.readAsDataURL(file);
}

function forgetGold() {
  gold = null;
  at("gold").hidden = true;
}

function phrases(list, texts) {
  list.replaceChildren(...texts.map(({ text, probability }) => {
    const item = said("li", gold && gold.has(text.trim().toLowerCase()) ? "right" : "", text);
    if (probability !== undefined) {
      item.append(make("small", "", `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%`));
      item.title = "probability that the model gives to this keyphrase, after all that is before it";
    }
    return item;
  }));
  return list;
}

function answer(title, found) {
  const shown = make("div", "", make("h3", "", title));
  if (found.keyphrases.length) shown.append(phrases(make("ul", "phrases"), found.keyphrases));
  else shown.append(make("p", "note", found.is_cut ? "no keyphrases: the answer was cut at the most tokens" : "no keyphrases"));
  if (found.reasoning) shown.append(said("div", "reasoning", found.reasoning));
  const facts = [`${found.tokens} tokens after ${found.prompt_tokens} of the prompt`, `${found.seconds.toFixed(2)} s`];
  shown.append(make("p", "note", facts.join(" · ")));
  shown.append(make("details", "note", make("summary", "", "raw output"), said("pre", "", found.output)));
  return shown;
}

function chosen(found) {
  const mode = found.thinks ? "with a chain of thought" : "directly";
  if (found.p_think === undefined) return `By its own choice: ${mode}`;
  const share = found.thinks ? found.p_think : 1 - found.p_think;
  return `By its own choice: ${mode} (probability ${(100 * share).toFixed(1)}%)`;
}

async function predictWith(model, post, number) {
  const place = make("div", "", make("p", "note", "waiting for the answer …"));
  const card = make("section", "run", said("h2", "", model.name), place);
  at("runs").append(card);
  const body = { model: model.name, text: post.text, ...(post.image && model.images ? { image: post.image } : {}) };
  try {
    const own = await ask("/api/predict", body);
    if (number !== asked) return;
    const ours = answer(chosen(own), own);
    if (post.image && !model.images) ours.prepend(make("p", "note", "This model takes no images; it reads the text alone."));
    const other = own.thinks ? "direct" : "think";
    const title = other === "think" ? "If it must think first" : "If it must answer directly";
    const waiting = make("p", "note", `${title}: waiting …`);
    place.replaceChildren(ours, waiting);
    const forced = await ask("/api/predict", { ...body, mode: other });
    if (number === asked) waiting.replaceWith(answer(title, forced));
  } catch (error) {
    if (number === asked) place.append(make("p", "error", error.message));
    throw error;
  }
}

async function showNearest(text, number) {
  at("nearest").hidden = true;
  if (!text.trim() || !at("nearest").dataset.available) return;
  let found = [], note = "Similar by the words of their texts; the percentage is the TF-IDF cosine.";
  try {
    found = (await ask("/api/nearest", { text })).posts;
    if (!found.length) note = "No training post shares a word with this one.";
  } catch (error) {
    note = error.message;
  }
  if (number !== asked) return;
  at("nearest-note").textContent = note;
  at("nearest-posts").replaceChildren(...found.map((post) => {
    const card = make("article", "post");
    if (post.image) {
      const shown = make("img");
      shown.src = post.image;
      shown.alt = "";
      card.append(shown);
    }
    const list = phrases(make("ul", "phrases"), post.keyphrases.map((text) => ({ text })));
    card.append(said("p", "", post.text), list, make("p", "note", `${(100 * post.similarity).toFixed(0)}% similar`));
    return card;
  }));
  at("nearest").hidden = false;
}

async function predict() {
  const post = { text: at("text").value, image }, number = ++asked;
  showError(null);
  at("runs").replaceChildren();
  at("go").disabled = true;
  at("status").textContent = "predicting …";
  const done = await Promise.allSettled([...models.map((model) => predictWith(model, post, number)), showNearest(post.text, number)]);
  if (number !== asked) return;
  at("go").disabled = false;
  at("status").textContent = done.some((each) => each.status === "rejected") ? "failed" : "";
}

async function takeExample(offered) {
  try {
    const found = await ask(`/api/examples/${offered.number}`);
    at("text").value = found.text;
    image = found.file || null;
    showImage(found.image, "");
    gold = new Set(found.keyphrases.map((each) => each.trim().toLowerCase()));
    phrases(at("gold-phrases"), found.keyphrases.map((text) => ({ text })));
    at("gold").hidden = false;
    await predict();
  } catch (error) {
    showError(error);
  }
}

function offer(examples) {
  at("offered").hidden = !examples.length;
  at("examples").replaceChildren(...examples.map((each) => {
    const button = make("button");
    button.type = "button";
    if (each.image) {
      const shown = make("img");
      shown.src = each.image;
      shown.alt = "";
      button.append(shown);
    }
    button.append(said("span", "", each.text));
    button.onclick = () => takeExample(each);
    return button;
  }));
}

at("form").onsubmit = (event) => { event.preventDefault(); predict(); };
at("text").oninput = forgetGold;
at("text").onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit(); };
at("file").onchange = () => { take(at("file").files[0]); at("file").value = ""; };
at("without").onclick = () => { image = null; forgetGold(); showImage("", ""); };
document.onpaste = (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));
document.ondragover = (event) => { event.preventDefault(); at("drop").classList.add("over"); };
document.ondragleave = () => at("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
};

ask("/api/info").then((found) => {
  models = found.models;
  at("models").textContent = models.map((each) => each.name).join(" · ");
  at("nearest").dataset.available = found.without_data ? "" : "1";
  at("status").textContent = found.without_data ? `No examples and no training posts: ${found.without_data}` : "";
  offer(found.examples);
}).catch(showError);

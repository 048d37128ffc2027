"use strict";
// Shows the posts of the report, a page at a time. Texts are always set as text, never parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const filters = document.getElementById("filters"), status = document.getElementById("status");
const list = document.getElementById("list"), pages = document.getElementById("pages");
const PER_PAGE = 20;
let found = [], page = 0;

const posts = data.posts.map(([id, text, gold, groups, image, differ, predictions]) => ({
  id, text, gold, groups, image, differ,
  predictions: predictions.map(([verdict, form, phrases, hits, more, output]) => ({ verdict, form, phrases, hits, more, output })),
}));

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function phrases(texts, classOf) {
  const chips = texts.map((text, number) => {
    const chip = make("span", classOf(number), text);
    chip.dir = "auto";
    return chip;
  });
  return make("span", "phrases", ...(chips.length ? chips : ["–"]));
}

function describe(name, prediction) {
  const chips = phrases(prediction.phrases, (number) => prediction.hits[number] ? "hit" : "miss");
  if (prediction.more) chips.append(` and ${prediction.more} more`);
  const form = data.forms[prediction.form];
  const shown = make("div", "", chips);
  if (form !== "direct") {
    const output = make("pre", "", prediction.output);
    output.dir = "auto";
    shown.append(make("details", "", make("summary", "", "output"), output));
  }
  return [make("span", "", name), make("span", "", `${data.verdicts[prediction.verdict]}, ${form}`), shown];
}

function card(post) {
  let image = make("div", "none");
  if (post.image) {
    image = make("img");
    image.src = post.image;
    image.alt = "";
  }
  const text = make("p", "post-text", post.text);
  text.dir = "auto";
  const groups = post.groups.map((group) => data.groups[group]).filter((group) => group !== "all");
  return make("div", "card", image, make("div", "",
    make("p", "id", [post.id, ...groups].join(" · ")),
    text,
    make("div", "answers",
      make("span", "", "gold"), make("span"), phrases(post.gold, () => ""),
      ...post.predictions.flatMap((prediction, run) => describe(data.runs[run], prediction)))));
}

function show() {
  const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  list.replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
  const cut = data.cut ? ` ${data.cut.toLocaleString("en")} long texts are shortened here; the predictions files have the full texts.` : "";
  const images = ` ${data.images.toLocaleString("en")} are shown with their image.`;
  status.textContent = `${found.length.toLocaleString("en")} of ${posts.length.toLocaleString("en")} posts.${images}${cut}`;
  pages.hidden = !found.length;
  pages.querySelector("span").textContent = `page ${page + 1} of ${last + 1}`;
  for (const button of pages.querySelectorAll("button")) {
    button.disabled = button.value < 0 ? page === 0 : page === last;
  }
}

function searched(post) {
  post.searched ??= [post.id, post.text, ...post.gold, ...post.predictions.flatMap((prediction) => prediction.phrases)].join("\n").toLowerCase();
  return post.searched;
}

function filter() {
  const value = Object.fromEntries(new FormData(filters));
  const text = value.text.trim().toLowerCase();
  const matches = (prediction) => (value.verdict === "" || prediction.verdict === +value.verdict)
    && (value.form === "" || prediction.form === +value.form);
  found = posts.filter((post) => (value.group === "" || post.groups.includes(+value.group))
    && (!value.differ || post.differ)
    && (value.run === "" ? post.predictions.some(matches) : matches(post.predictions[+value.run]))
    && (!text || searched(post).includes(text)));
  page = 0;
  show();
}

function options(name, first, names) {
  const select = filters.elements[name];
  select.append(new Option(first, ""), ...names.map((each, number) => new Option(each, String(number))));
}

options("group", "all groups", data.groups);
filters.elements.group.options[1].remove(); // "all" again
options("verdict", "right or wrong", data.verdicts);
options("run", "any run", data.runs);
options("form", "any form", data.forms);
filters.elements.run.hidden = document.getElementById("differing").hidden = data.runs.length === 1;
filters.hidden = false;
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
pages.addEventListener("click", (event) => {
  if (event.target.tagName !== "BUTTON") return;
  page += +event.target.value;
  show();
  document.getElementById("posts").scrollIntoView();
});
filter();

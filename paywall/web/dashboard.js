// Asks for the data every few seconds and draws it. Whatever came from outside (routes, payers,
// reasons) is set as text, never as markup. Amounts are BigInt until they are drawn.
"use strict";
(() => {
  const EVERY_MS = 3000;
  const SVG = "http://www.w3.org/2000/svg";
  const RANGES = [["hour", "Hour"], ["day", "Day"], ["month", "30 days"]];
  const STACK = ["served", "free", "quoted", "refused", "failed"];
  const NAMES = {
    served: "paid", free: "free", quoted: "asked for the price", refused: "refused", failed: "failed",
  };
  const root = document.body.dataset.root;
  const by = (id) => document.getElementById(id);
  let range = "day";
  let chosen = 0;
  let last = null;

  // -- Small things ---------------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    one.append(...children);
    return one;
  }

  function draw(tag, attributes = {}, ...children) {
    const one = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    one.append(...children);
    return one;
  }

  function money(units, token) {
    const whole = BigInt(units), unit = 10n ** BigInt(token.decimals);
    const digits = (whole % unit).toString().padStart(token.decimals, "0").replace(/0+$/, "").padEnd(2, "0");
    const before = (whole / unit).toLocaleString("en-US");
    if (!token.decimals) return before;
    return token.dollar ? `$${before}.${digits}` : `${before}.${digits}`;
  }

  const count = (number) => Number(number).toLocaleString("en-US");
  const short = (hex) => (hex.length > 20 ? `${hex.slice(0, 8)}…${hex.slice(-6)}` : hex);
  const named = (hex) => make("code", { title: hex }, short(hex));

  function duration(us) {
    if (us === null || us === undefined) return "—";
    return us < 1e6 ? `≤ ${us / 1000} ms` : `≤ ${us / 1e6} s`;
  }

  function clock(ms, days) {
    const at = new Date(ms);
    return days
      ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" })
      : at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  }

  function when(ms, now) {
    if (!ms) return "never";
    const seconds = Math.round((ms - now) / 1000), size = Math.abs(seconds);
    const told = size < 90 ? `${size} s` : size < 5400 ? `${Math.round(size / 60)} min`
      : size < 172800 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86400)} days`;
    return seconds > 0 ? `in ${told}` : `${told} ago`;
  }

  function table(heads, rows, nothing) {
    if (!rows.length) return make("p", { class: "none" }, nothing);
    const cell = (tag, value, head) => make(tag, head.startsWith("#") ? { class: "number" } : {}, value);
    return make("div", { class: "table" }, make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => cell("th", head.replace("#", ""), head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, at) => cell("td", value, heads[at])))))));
  }

  // -- Plots ----------------------------------------------------------------------------------------

  function nice(most) {
    if (most <= 0) return 1;
    const power = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 2.5, 5, 10].map((step) => step * power).find((top) => top >= most);
  }

  // bars: [when, [[class, height, words], ...]]
  function plot(place, bars, shown, days) {
    const width = Math.max(280, place.clientWidth || 600), height = 200, left = 62, bottom = 20, top = 8;
    const most = nice(Math.max(0, ...bars.map(([, parts]) => parts.reduce((sum, [, size]) => sum + size, 0))));
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", preserveAspectRatio: "none" });
    const tall = height - bottom - top, step = (width - left) / bars.length;
    for (const part of [0, 0.5, 1]) {
      const y = height - bottom - part * tall;
      svg.append(draw("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }));
      svg.append(draw("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, shown(part * most)));
    }
    bars.forEach(([at, parts], number) => {
      let y = height - bottom;
      for (const [kind, size, words] of parts) {
        const high = (size / most) * tall;
        y -= high;
        if (high > 0) {
          const bar = draw("rect", {
            class: `bar ${kind}`, x: left + number * step + step * 0.1, y, width: Math.max(1, step * 0.8),
            height: high,
          });
          bar.append(draw("title", {}, `${clock(at, days)}: ${words}`));
          svg.append(bar);
        }
      }
    });
    const marks = Math.max(2, Math.min(6, Math.floor(width / 130)));
    for (let mark = 0; mark < marks; mark += 1) {
      const number = Math.round((mark * (bars.length - 1)) / (marks - 1));
      const anchor = mark === 0 ? "start" : mark === marks - 1 ? "end" : "middle";
      const x = mark === 0 ? left : mark === marks - 1 ? width : left + (number + 0.5) * step;
      svg.append(draw("text", { x, y: height - 5, "text-anchor": anchor }, clock(bars[number][0], days)));
    }
    place.replaceChildren(svg);
  }

  function compact(value, token) {
    const amount = value / 10 ** token.decimals;
    const text = amount.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });
    return token.dollar ? `$${text}` : text;
  }

  // -- The page -------------------------------------------------------------------------------------

  function showTiles(data, token) {
    const { holdings } = token, day = data.requests.day, hour = data.requests.hour;
    const today = token.day.reduce((sum, [, amount]) => sum + BigInt(amount), 0n);
    const paid = token.day.reduce((sum, [, , number]) => sum + number, 0);
    const deadline = token.risks.length ? Math.min(...token.risks.map((risk) => risk[2])) : 0;
    const claimer = data.claimers.find((one) => one.network === token.network);
    const fee = claimer && claimer.fee_ppm !== null && claimer.fee_ppm !== undefined
      ? `${(claimer.fee_ppm / 10000).toFixed(2)} %` : "—";
    const tiles = [
      [money(today, token), "last 24 hours", `${count(paid)} charges`],
      [money(token.total[0], token), "in the ledger", `${count(token.total[1])} charges`],
      [money(holdings.unclaimed, token), "at risk until claimed",
        deadline ? `could be lost ${when(deadline, data.now)} at the earliest` : "nothing is owed"],
      [count(holdings.open), "open channels",
        `${money(holdings.remaining, token)} left in them${holdings.withdrawing ? `, ${holdings.withdrawing} withdrawing` : ""}`],
      [duration(hour.quantiles[0]), "median latency, last hour", `99 %: ${duration(hour.quantiles[2])}`],
      [count(day.outcomes.refused), "refusals, last 24 hours",
        `${count(day.outcomes.failed + day.outcomes.unavailable)} failed`],
      [fee, "fee share of what was claimed", claimer && claimer.fee ? `${claimer.fee} for gas` : "no claim yet"],
    ];
    by("tiles").replaceChildren(...tiles.map(([value, name, more]) =>
      make("div", { class: "tile" }, make("b", {}, value), make("span", {}, name), make("span", {}, more))));
  }

  function showRevenue(token) {
    by("ranges").replaceChildren(...RANGES.map(([key, name]) => {
      const button = make("button", { type: "button", "aria-pressed": String(key === range) }, name);
      button.addEventListener("click", () => { range = key; show(last); });
      return button;
    }));
    const bars = token[range].map(([at, amount, number]) =>
      [at, [["served", Number(amount), `${money(amount, token)}, ${count(number)} charges`]]]);
    plot(by("revenue"), bars, (value) => compact(value, token), range === "month");
  }

  function showRequests(requests) {
    by("legend").replaceChildren(...STACK.map((kind) =>
      make("span", {}, make("i", { class: kind }), NAMES[kind])));
    const bars = requests.series.map(([at, outcomes]) => {
      const sizes = { ...outcomes, failed: outcomes.failed + outcomes.unavailable };
      return [at, STACK.map((kind) => [kind, sizes[kind], `${count(sizes[kind])} ${NAMES[kind]}`])];
    });
    plot(by("requests"), bars, (value) => value.toLocaleString("en-US", { notation: "compact" }), false);
  }

  function showTables(data, token) {
    const sums = (rows, name) => rows.map(([key, amount, number]) => [name(key), money(amount, token), count(number)]);
    by("routes").replaceChildren(table(["Route", "#Revenue", "#Charges"],
      sums(token.routes, (key) => make("code", {}, key || "—")), "Nothing was charged yet."));
    by("payers").replaceChildren(table(["Payer", "#Revenue", "#Charges"],
      sums(token.payers, named), "Nobody has paid yet."));
    by("latency").replaceChildren(table(["Route", "#Answers", "#50 %", "#95 %", "#99 %"],
      data.requests.hour.routes.filter((row) => row[1]).map(([route, answers, ...rest]) =>
        [make("code", {}, route), count(answers), ...rest.map(duration)]), "No paid answer in the last hour."));
    by("refusals").replaceChildren(table(["Reason", "#Times"],
      data.requests.day.reasons.map(([reason, number]) => [make("code", {}, reason), count(number)]),
      "No payment was refused."));
    by("channels").replaceChildren(table(["Channel", "Payer", "#Balance", "#Charged", "#Unclaimed", "#Left", "Last used"],
      token.channels.map((one) => [named(one.id), named(one.payer), money(one.balance, token),
        money(one.charged, token), money(one.unclaimed, token), money(one.remaining, token),
        one.withdrawing ? "is withdrawing" : when(one.used_at, data.now)]), "There is no channel yet."));
  }

  const WHY = {
    dust: "too little to be worth a claim", dear: "waits for cheaper gas", unpriced: "a token of unknown worth",
  };

  function showClaimer(data, token) {
    const place = by("claimer");
    const one = data.claimers.find((claimer) => claimer.network === token.network);
    if (!one || !one.looked_at) {
      place.replaceChildren(make("p", { class: "none" },
        "No claimer has looked yet. It runs beside the requests, or as `paywall claim --watch`."));
      return;
    }
    const fact = (name, value) => make("span", {}, `${name} `, make("b", {}, value));
    const parts = [make("p", { class: "facts" },
      fact("looked", when(one.looked_at, data.now)),
      fact("gas price", `${(Number(one.price_wei) / 1e9).toPrecision(3)} gwei`),
      fact("everything claimed", when(one.swept_at, data.now)),
      fact("transactions", count(one.transactions)),
      fact("fees", one.fee ?? `${one.fee_wei} wei`))];
    parts.push(make("h3", {}, "What waits"), table(["Why", "#Channels", "#Amount"], [
      ...one.waiting.map(([why, number, amount]) => [WHY[why] || why, count(number), money(amount, token)]),
      ...one.sent.map((hash) => [make("span", {}, "sent, not mined yet: ", named(hash)), "", ""]),
      ...one.aside.map(([id, reason]) => [make("span", {}, "set aside: ", named(id), ` ${reason}`), "1", ""]),
    ], "Nothing waits."));
    parts.push(make("h3", {}, "What was done"), table(["When", "What", "#Channels", "#Amount", "#Gas", "Transaction"],
      one.deeds.map((deed) => [when(deed.at, data.now), deed.kind,
        deed.channels === null ? "" : count(deed.channels), deed.amount, count(deed.gas), named(deed.transaction)]),
      "No transaction yet."));
    place.replaceChildren(...parts);
  }

  function showAlarms(data) {
    by("alarms").replaceChildren(...data.claimers.flatMap((claimer) => claimer.alarms.map(([name, , text]) =>
      make("p", {}, make("b", {}, name), ` on ${claimer.name}: ${text}`))));
  }

  function showChoice(data) {
    const choice = by("token-choice");
    choice.hidden = data.tokens.length < 2;
    if (choice.options.length === data.tokens.length) return;
    choice.replaceChildren(...data.tokens.map((token, at) =>
      make("option", { value: at }, `${token.symbol} on ${token.name}`)));
  }

  const NO_TOKEN = {
    network: "", symbol: "", decimals: 6, dollar: true, total: ["0", 0], hour: [], day: [], month: [],
    routes: [], payers: [], risks: [], channels: [], holdings: { unclaimed: "0", remaining: "0", open: 0 },
  };

  function empty(now) {
    const bars = (number, minutes) => Array.from({ length: number }, (_, at) =>
      [now - (number - 1 - at) * minutes * 60000, "0", 0]);
    return { ...NO_TOKEN, hour: bars(60, 1), day: bars(96, 15), month: bars(30, 1440) };
  }

  function show(data) {
    last = data;
    const token = data.tokens[chosen] || data.tokens[0] || empty(data.now);
    by("login").hidden = true;
    by("board").hidden = false;
    const parts = [`live, ${clock(data.now)}`];
    if (!data.complete) parts.push("still reading the ledger");
    if (!data.whole) parts.push("more channels than are shown");
    state(parts.join(" · "), false);
    showChoice(data);
    showAlarms(data);
    showTiles(data, token);
    showRevenue(token);
    showRequests(data.requests);
    showTables(data, token);
    showClaimer(data, token);
  }

  function state(text, wrong) {
    by("state").textContent = text;
    by("state").classList.toggle("wrong", wrong);
  }

  async function look() {
    if (document.hidden && last) return;
    let answer;
    try {
      answer = await fetch(`${root}/data`, { cache: "no-store", credentials: "same-origin" });
    } catch {
      return state("the dashboard does not answer", true);
    }
    if (answer.status === 401) {
      by("board").hidden = true;
      by("login").hidden = false;
      by("wrong").hidden = location.hash !== "#wrong";
      return;
    }
    if (!answer.ok) {
      by("board").hidden = false;
      return state("the store does not answer", true);
    }
    show(await answer.json());
  }

  async function lookForEver() {
    await look();
    setTimeout(lookForEver, EVERY_MS);
  }

  by("token-choice").addEventListener("change", (event) => {
    chosen = Number(event.target.value);
    show(last);
  });
  window.addEventListener("resize", () => last && show(last));
  lookForEver();
})();

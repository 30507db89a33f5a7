// Pays the quote on this page with the wallet in the browser: one EIP-3009 authorization, signed once,
// for exactly the amount that is shown. A signed payment whose answer was lost is sent again, never
// signed anew: it is good once, so sending it twice cannot cost twice.
"use strict";
(() => {
  const terms = JSON.parse(document.getElementById("terms").textContent);
  const words = document.getElementById("words");
  const button = document.getElementById("pay");
  const SKEW_SECONDS = 600; // how far a wallet's clock may be ahead of the chain's
  const TRIES = 8;
  const ACCEPT = "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.8";
  const KEPT = `paywall:${location.pathname}${location.search}`;
  let signed = kept(); // {header, until}: what was signed and may have been paid

  const FIELDS = [
    ["from", "address"], ["to", "address"], ["value", "uint256"],
    ["validAfter", "uint256"], ["validBefore", "uint256"], ["nonce", "bytes32"],
  ].map(([name, type]) => ({ name, type }));

  class Told extends Error {} // what a person can read

  const ask = (method, params) => window.ethereum.request(params ? { method, params } : { method });
  const nowSeconds = () => Math.floor(Date.now() / 1000);
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  function say(text, wrong) {
    words.textContent = text;
    words.classList.toggle("wrong", Boolean(wrong));
  }

  function kept() { // a reload must not make a person pay twice
    try {
      const found = JSON.parse(sessionStorage.getItem(KEPT));
      return found && found.amount === terms.offer.amount ? found : null;
    } catch {
      return null;
    }
  }

  function keep(payment) {
    signed = payment;
    try {
      if (payment) sessionStorage.setItem(KEPT, JSON.stringify(payment));
      else sessionStorage.removeItem(KEPT);
    } catch { /* a browser that keeps nothing */ }
  }

  function hex(bytes) {
    return "0x" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function base64(text) {
    return btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));
  }

  function unbase64(text) {
    return new TextDecoder().decode(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  }

  // -- The wallet ---------------------------------------------------------------------------------

  async function chosenAccount() {
    const accounts = await ask("eth_requestAccounts");
    if (!Array.isArray(accounts) || !accounts.length) throw new Told("The wallet shows no account.");
    return accounts[0];
  }

  async function onTheRightNetwork() {
    const wanted = "0x" + Number(terms.chainId).toString(16);
    if (Number(await ask("eth_chainId")) === terms.chainId) return;
    say(`Your wallet is on another network. Please let it change to ${terms.networkName}.`);
    try {
      await ask("wallet_switchEthereumChain", [{ chainId: wanted }]);
    } catch (error) {
      if (error && error.code === 4902) {
        throw new Told(`Your wallet does not know ${terms.networkName} yet. Add it there and try again.`);
      }
      throw error;
    }
    if (Number(await ask("eth_chainId")) !== terms.chainId) {
      throw new Told(`Your wallet is not on ${terms.networkName}. Nothing was paid.`);
    }
  }

  async function sign(from) {
    const offer = terms.offer;
    const now = nowSeconds();
    const authorization = {
      from,
      to: offer.payTo,
      value: offer.amount,
      validAfter: String(now - SKEW_SECONDS),
      validBefore: String(now + offer.maxTimeoutSeconds),
      nonce: hex(crypto.getRandomValues(new Uint8Array(32))),
    };
    const data = {
      types: {
        EIP712Domain: [
          { name: "name", type: "string" }, { name: "version", type: "string" },
          { name: "chainId", type: "uint256" }, { name: "verifyingContract", type: "address" },
        ],
        TransferWithAuthorization: FIELDS,
      },
      primaryType: "TransferWithAuthorization",
      domain: {
        name: offer.extra.name, version: offer.extra.version,
        chainId: terms.chainId, verifyingContract: offer.asset,
      },
      message: authorization,
    };
    const signature = await ask("eth_signTypedData_v4", [from, JSON.stringify(data)]);
    const payment = {
      x402Version: 2, resource: terms.resource, accepted: offer,
      payload: { signature, authorization },
    };
    return {
      header: base64(JSON.stringify(payment)), until: Number(authorization.validBefore),
      amount: offer.amount,
    };
  }

  // -- The payment --------------------------------------------------------------------------------

  async function send() {
    for (let attempt = 1; ; attempt += 1) {
      const answer = await fetch(location.href, {
        headers: { "PAYMENT-SIGNATURE": signed.header, Accept: ACCEPT },
        cache: "no-store", redirect: "manual", credentials: "same-origin",
      });
      if (answer.status !== 503 || attempt === TRIES) return answer;
      say("The payment is on its way. Please wait.");
      await pause(1000 * Math.min(10, Number(answer.headers.get("Retry-After")) || 2));
    }
  }

  async function pay() {
    button.disabled = true;
    try {
      if (!signed || signed.until <= nowSeconds()) {
        keep(null);
        say("Your wallet will ask you to sign.");
        const account = await chosenAccount();
        await onTheRightNetwork();
        say(`Please sign for ${terms.cost} ${terms.symbol} in your wallet.`);
        keep(await sign(account));
      }
      say("Paying. This takes a few seconds.");
      await finish(await send());
    } catch (error) {
      say(inPlainWords(error), true);
      if (signed) button.textContent = "Send the same payment again";
    } finally {
      button.disabled = false;
    }
  }

  function inPlainWords(error) {
    if (error instanceof Told) return error.message;
    if (error && error.code === 4001) return "You declined in your wallet. Nothing was paid.";
    if (error && error.code === -32002) return "Your wallet is waiting for you: open it and answer there.";
    if (signed) {
      return "No answer came, so it is not known whether this was paid. "
        + "Sending the same payment again cannot cost twice.";
    }
    return `Your wallet could not do that. Nothing was paid. (${(error && error.message) || "no reason"})`;
  }

  async function finish(answer) {
    if (answer.ok) return show(answer);
    if (answer.type === "opaqueredirect") { // a payment goes to no other address
      keep(null);
      button.hidden = true;
      throw new Told("Paid. The server answered by naming another address, which this page does not follow.");
    }
    const body = await answer.json().catch(() => ({}));
    const said = typeof body.message === "string" ? ` The server says: ${body.message}` : "";
    if (answer.status === 503) throw new Told(`The server could not finish this just now.${said}`);
    if (answer.status !== 402) throw new Told(`The server answered ${answer.status}.${said}`);
    keep(null);
    button.textContent = `Pay ${terms.cost} with your wallet`;
    if (body.error === terms.tooLittle) {
      throw new Told(`There is less than ${terms.cost} ${terms.symbol} in your wallet. Nothing was paid.`);
    }
    throw new Told(`The payment was not taken.${said}`);
  }

  // -- What was bought ----------------------------------------------------------------------------

  async function show(answer) {
    const kind = (answer.headers.get("Content-Type") || "").split(";")[0].trim().toLowerCase();
    const receipt = answer.headers.get("PAYMENT-RESPONSE");
    const blob = await answer.blob();
    button.hidden = true;
    say("");
    keep(null);
    document.getElementById("save").href = URL.createObjectURL(blob);
    document.getElementById("shown").replaceChildren(await element(kind, blob));
    document.getElementById("receipt").textContent = receiptText(receipt);
    document.getElementById("content").hidden = false;
    document.getElementById("agents").hidden = true;
  }

  function receiptText(receipt) {
    try {
      const { transaction } = JSON.parse(unbase64(receipt));
      return transaction ? `Transaction ${transaction}` : "";
    } catch {
      return "";
    }
  }

  async function element(kind, blob) {
    if (kind.startsWith("image/")) {
      const image = document.createElement("img");
      image.src = URL.createObjectURL(blob);
      image.alt = "what was bought";
      return image;
    }
    if (kind === "text/html") { // no scripts, no forms, another origin, and this page's policy
      const frame = document.createElement("iframe");
      frame.setAttribute("sandbox", "");
      frame.title = "what was bought";
      frame.srcdoc = await blob.text();
      return frame;
    }
    const text = document.createElement("pre");
    if (kind.endsWith("json")) text.textContent = indented(await blob.text());
    else if (kind.startsWith("text/")) text.textContent = await blob.text();
    else text.textContent = `${kind || "data"}, ${blob.size} bytes`;
    return text;
  }

  function indented(text) {
    try {
      JSON.parse(text);
    } catch {
      return text;
    }
    // Not parsed and written again: that would round large numbers.
    return text.length > 1e5 ? text : spread(text);
  }

  function spread(text) {
    let out = "", depth = 0, quoted = false;
    const line = () => "\n" + "  ".repeat(depth);
    for (let at = 0; at < text.length; at += 1) {
      const letter = text[at];
      if (quoted) {
        out += letter;
        if (letter === "\\") out += text[(at += 1)];
        else if (letter === '"') quoted = false;
      } else if (letter === '"') { quoted = true; out += letter; }
      else if (letter === "{" || letter === "[") { depth += 1; out += letter + line(); }
      else if (letter === "}" || letter === "]") { depth -= 1; out += line() + letter; }
      else if (letter === ",") out += letter + line();
      else if (letter === ":") out += ": ";
      else if (!/\s/.test(letter)) out += letter;
    }
    return out;
  }

  function begin() {
    if (!window.ethereum || typeof window.ethereum.request !== "function") {
      return say("There is no wallet in this browser. With one, you can pay here; an agent pays as below.");
    }
    if (signed) button.textContent = "Send the same payment again";
    say("Pay once with the wallet in this browser. It signs a single transfer of this amount, and no more.");
    button.hidden = false;
    button.onclick = pay;
  }

  if (!terms.offer) return;
  window.addEventListener("ethereum#initialized", begin, { once: true }); // some wallets come late
  begin();
})();

// The official clients, each with one payer: fetch and axios of x402 v2 and of v1, and mppx.
import axios from "axios";
import { evm, Mppx } from "mppx/client";
import { privateKeyToAccount } from "viem/accounts";
import { withPaymentInterceptor } from "x402-axios";
import { createSigner, wrapFetchWithPayment as wrapV1 } from "x402-fetch";

import { wrapAxiosWithPayment } from "@x402/axios";
import { toClientEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client, x402HTTPClient } from "@x402/fetch";

import { NETWORK, NETWORK_V1, reader } from "./chain.mjs";

const open = [];

const byFetch = paying => async url => {
  const answer = await paying(url);
  return { status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text() };
};

const byAxios = (paying, then = async () => false) => async url => {
  let answer = await whatever(paying.get(url));
  if (await then(answer)) answer = await whatever(paying.get(url));
  const { status, headers, data } = answer;
  return { status, headers: { ...headers }, body: JSON.stringify(data) };
};

const whatever = answer =>
  answer.catch(error => {
    if (!error.response) throw error;
    return error.response;
  });

// The last @x402/axios on npm (2.11) is older than channels and shows no receipt to a scheme; core
// has the step that @x402/fetch takes after each paid answer, and here axios takes it too.
const receiptsOf = client => async ({ status, headers, config }) => {
  const sent = config.headers["PAYMENT-SIGNATURE"];
  if (!sent) return false;
  const payload = JSON.parse(Buffer.from(sent, "base64"));
  const http = new x402HTTPClient(client);
  return (await http.processPaymentResult(payload, name => headers[name.toLowerCase()], status)).recovered;
};

function schemeOf({ key, rpc, scheme }) {
  const account = privateKeyToAccount(key);
  const signer = rpc ? toClientEvmSigner(account, reader(rpc)) : account;
  return scheme === "exact" ? new ExactEvmScheme(signer) : new BatchSettlementEvmScheme(signer);
}

async function payerOf(kind, key, scheme) {
  const v2 = () => new x402Client().register(NETWORK, scheme);
  if (kind === "fetch") return byFetch(wrapFetchWithPayment(fetch, v2()));
  if (kind === "axios-bare") return byAxios(wrapAxiosWithPayment(axios.create(), v2()));
  if (kind === "axios") {
    const client = v2();
    return byAxios(wrapAxiosWithPayment(axios.create(), client), receiptsOf(client));
  }
  if (kind === "fetch-v1") return byFetch(wrapV1(fetch, await createSigner(NETWORK_V1, key)));
  if (kind === "axios-v1")
    return byAxios(withPaymentInterceptor(axios.create(), await createSigner(NETWORK_V1, key)));
  const currencies = [evm.assets.baseSepolia.USDC];
  const charge = evm.charge({ account: privateKeyToAccount(key), currencies, maxAmount: "1" });
  return byFetch(Mppx.create({ methods: [charge], polyfill: false }).fetch);
}

export async function openClient(settings) {
  const scheme = schemeOf(settings);
  open.push({ settings, scheme, pay: await payerOf(settings.kind, settings.key, scheme) });
  return open.length - 1;
}

export async function forget({ client }) {
  const { settings } = open[client];
  const scheme = schemeOf(settings);
  open[client] = { settings, scheme, pay: await payerOf(settings.kind, settings.key, scheme) };
}

// A client that throws (some do after they have paid) is an answer without a status.
const tried = (pay, url) => pay(url).catch(error => ({ status: 0, headers: {}, body: String(error) }));

export async function get({ client, url, times = 1, together = false }) {
  const { pay } = open[client];
  const urls = Array(times).fill(url);
  if (together) return Promise.all(urls.map(each => tried(pay, each)));
  const answers = [];
  for (const each of urls) answers.push(await tried(pay, each));
  return answers;
}

export const refund = ({ client, url, amount }) =>
  open[client].scheme.refund(url, amount === undefined ? {} : { amount: String(amount) });

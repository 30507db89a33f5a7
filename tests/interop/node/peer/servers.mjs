// The official servers: express and hono of x402 v2, express of v1.
//
// /item and /slow cost vouchers of a channel, /once one transfer. /partial charges less than it says.
import { getRequestListener } from "@hono/node-server";
import express from "express";
import { Hono } from "hono";

import { HTTPFacilitatorClient } from "@x402/core/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import * as xExpress from "@x402/express";
import * as xHono from "@x402/hono";
import { paymentMiddleware as v1Middleware } from "x402-express";

import { NETWORK, NETWORK_V1 } from "./chain.mjs";
import { listening } from "./listening.mjs";

const open = [];

const later = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

const authorization = token => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return async () => ({ verify: headers, settle: headers, supported: headers });
};

function routesOf(receiver) {
  const terms = { payTo: receiver, network: NETWORK };
  const voucher = { accepts: { scheme: "batch-settlement", price: "$0.001", ...terms } };
  const transfer = { accepts: { scheme: "exact", price: "$0.01", ...terms } };
  return {
    "GET /item": voucher,
    "GET /slow": voucher,
    "GET /partial": voucher,
    "GET /once": transfer,
  };
}

function expressApp(routes, resourceServer, { partial, slow }, count) {
  const app = express();
  app.use((request, _, next) => (count(request.headers["payment-signature"]), next()));
  app.use(xExpress.paymentMiddleware(routes, resourceServer));
  app.get(["/item", "/once"], (_, response) => response.json({ sold: true }));
  app.get("/slow", async (_, response) => (await later(slow), response.json({ sold: true })));
  app.get("/partial", (_, response) => {
    xExpress.setSettlementOverrides(response, { amount: String(partial) });
    response.json({ sold: true });
  });
  return app;
}

function honoApp(routes, resourceServer, { partial, slow }, count) {
  const app = new Hono();
  app.use(async (context, next) => {
    count(context.req.header("payment-signature"));
    await next();
  });
  app.use(xHono.paymentMiddleware(routes, resourceServer));
  app.get("/item", context => context.json({ sold: true }));
  app.get("/once", context => context.json({ sold: true }));
  app.get("/slow", async context => (await later(slow), context.json({ sold: true })));
  app.get("/partial", context => {
    xHono.setSettlementOverrides(context, { amount: String(partial) });
    return context.json({ sold: true });
  });
  return getRequestListener(app.fetch);
}

function v1App(facilitator, receiver, count) {
  const app = express();
  app.use((request, _, next) => (count(request.headers["x-payment"]), next()));
  const price = { price: "$0.01", network: NETWORK_V1 };
  app.use(v1Middleware(receiver, { "GET /once": price }, { url: facilitator }));
  app.get("/once", (_, response) => response.json({ sold: true }));
  return app;
}

export async function openServer({ framework, facilitator, token, receiver, ...options }) {
  const requests = { paid: 0, unpaid: 0 };
  const count = header => (header ? requests.paid++ : requests.unpaid++);
  const settings = { partial: 300, slow: 0, ...options };
  if (framework === "express-v1") {
    open.push({ requests });
    return { server: open.length - 1, url: await listening(v1App(facilitator, receiver, count)) };
  }
  const desk = new HTTPFacilitatorClient({ url: facilitator, createAuthHeaders: authorization(token) });
  const scheme = new BatchSettlementEvmScheme(receiver);
  const make = framework === "hono" ? xHono : xExpress;
  const resourceServer = new make.x402ResourceServer(desk)
    .register(NETWORK, scheme)
    .register(NETWORK, new ExactEvmScheme());
  const app = (framework === "hono" ? honoApp : expressApp)(
    routesOf(receiver), resourceServer, settings, count);
  open.push({ requests, scheme, desk });
  return { server: open.length - 1, url: await listening(app) };
}

export const counts = ({ server }) => open[server].requests;

export const channels = ({ server }) => open[server].scheme.getStorage().list();

export async function collect({ server }) {
  const { scheme, desk } = open[server];
  const done = await scheme.createChannelManager(desk, NETWORK).claimAndSettle();
  return { vouchers: done.claims.reduce((sum, claim) => sum + claim.vouchers, 0), settled: !!done.settle };
}

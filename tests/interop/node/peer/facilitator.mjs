// The official facilitator over HTTP: both schemes of x402 v2, and `exact` of v1.
import express from "express";

import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/facilitator";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

import { NETWORK, NETWORK_V1, wallet } from "./chain.mjs";
import { listening } from "./listening.mjs";

export async function openFacilitator({ key, rpc }) {
  const client = wallet(key, rpc);
  const signer = toFacilitatorEvmSigner({ ...client, address: client.account.address });
  const authorizer = privateKeyToAccount(generatePrivateKey());
  const facilitator = new x402Facilitator()
    .register(NETWORK, new BatchSettlementEvmScheme(signer, authorizer))
    .register(NETWORK, new ExactEvmScheme(signer))
    .registerV1(NETWORK_V1, new ExactEvmSchemeV1(signer));

  const app = express().use(express.json());
  const answer = act => async (request, response) => {
    try {
      response.json(await act(request.body));
    } catch (error) {
      response.status(500).json({ error: String(error?.message ?? error) });
    }
  };
  app.get("/supported", answer(async () => facilitator.getSupported()));
  app.post("/verify", answer(body => facilitator.verify(body.paymentPayload, body.paymentRequirements)));
  app.post("/settle", answer(body => facilitator.settle(body.paymentPayload, body.paymentRequirements)));
  return listening(app);
}

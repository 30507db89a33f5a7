// The embedded chain as viem sees it. It mines at once, so receipts are asked for often.
import { createPublicClient, createWalletClient, http, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

export const NETWORK = "eip155:84532";
export const NETWORK_V1 = "base-sepolia";

const often = rpc => ({ chain: baseSepolia, transport: http(rpc), pollingInterval: 20 });

export const reader = rpc => createPublicClient(often(rpc));

export const wallet = (key, rpc) =>
  createWalletClient({ account: privateKeyToAccount(key), ...often(rpc) }).extend(publicActions);

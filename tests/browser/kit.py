"""A wallet in the browser whose keys are in Python, and pages photographed in every light."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_typed_data
from playwright.async_api import Page

_SHIM: Final = """
function moveIn() {
  window.ethereum = {
    async request({ method, params }) {
      const { result, error } = await window.askWallet(method, JSON.stringify(params ?? []));
      if (error) throw Object.assign(new Error(error.message), error);
      return result;
    },
  };
  window.dispatchEvent(new Event("ethereum#initialized"));
}
"""

LOOKS: Final = (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390))


class WalletError(Exception):
    """What an EIP-1193 wallet answers instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class BrowserWallet:
    """An EIP-1193 wallet; `knows` are the networks that it can change to."""

    chain_id: int
    key: str
    knows: set[int] = field(default_factory=set)
    declines: bool = False
    asked: list[str] = field(default_factory=list)
    signed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(Account.from_key(self.key).address)

    async def move_in(self, page: Page, after_ms: int = 0) -> None:
        """Before the page's own script, or so long after."""
        await page.expose_function("askWallet", self._answer)
        start = f"setTimeout(moveIn, {after_ms});" if after_ms else "moveIn();"
        await page.add_init_script(_SHIM + start)

    def _answer(self, method: str, params: str) -> dict[str, Any]:
        self.asked.append(method)
        try:
            return {"result": self._methods[method](*json.loads(params))}
        except WalletError as error:
            return {"error": {"code": error.code, "message": str(error)}}

    @property
    def _methods(self) -> dict[str, Callable[..., Any]]:
        return {
            "eth_requestAccounts": lambda: [self.address],
            "eth_chainId": lambda: hex(self.chain_id),
            "wallet_switchEthereumChain": self._switch,
            "eth_signTypedData_v4": self._sign,
        }

    def _switch(self, wanted: dict[str, str]) -> None:
        chain_id = int(wanted["chainId"], 16)
        if chain_id not in self.knows:
            raise WalletError(4902, "unknown chain")
        self.chain_id = chain_id

    def _sign(self, address: str, text: str) -> str:
        assert address == self.address
        if self.declines:
            raise WalletError(4001, "User rejected the request.")
        message = json.loads(text)
        assert message["domain"]["chainId"] == self.chain_id, "a wallet signs for its own network"
        self.signed.append(message)
        signable = encode_typed_data(full_message=message)
        return "0x" + bytes(Account.sign_message(signable, self.key).signature).hex()


async def photograph(page: Page, folder: Path, name: str) -> None:
    """One picture in each light and width; none may be wider than its window."""
    for light, width in LOOKS:
        await page.emulate_media(color_scheme=light)  # type: ignore[arg-type]
        await page.set_viewport_size({"width": width, "height": 800})
        await page.screenshot(path=folder / f"{name}-{light}-{width}.png", full_page=True)
        spills = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not spills, f"{name} is wider than {width} pixels"


def watched(page: Page) -> list[str]:
    """Fills up with what the page complains of, refused by its policy or thrown."""
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints

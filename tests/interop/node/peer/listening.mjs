// A Node request handler on a free loopback port; its base URL.
import http from "node:http";

export const listening = handler =>
  new Promise((resolve, reject) => {
    const server = http.createServer(handler);
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}`));
  });

-- Takes over what the chain says; an unknown channel is opened with the payer's own evidence.
-- KEYS  record, holds, channels that owe, ledger, all channels
-- ARGV  channel id, balance, claimed, withdraw amount, requested at, refund nonce, block, read at ms,
--       packed network and config, withdraw delay, evidence, amount and signature of the
--       voucher that it was taken from ('' without one)
local key, id = KEYS[1], ARGV[1]
local r = load(key)
-- These fail, before anything is written, when they are somebody else's.
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('XLEN', KEYS[4])
local before = r and r.c or '0'
if not r then
  local balance, claimed, evidence = ARGV[2], ARGV[3], ARGV[11]
  local charged = max(claimed, less(balance, evidence) and balance or evidence)
  r = {c = charged, tail = ARGV[9], dl = ARGV[10], f = charged, w = ' ', n = 0, hp = '0', hn = 0,
    he = '0', h = '', d = ' ', u = '0'}
  local voucher = ARGV[12]
  if voucher ~= '' and less('0', charged) and not less(voucher, charged) then
    r.v, r.tail = voucher, ARGV[13] .. r.tail
  end
  redis.call('ZADD', KEYS[5], 0, id)
  -- Of a record that was lost without them, and counted in none.
  redis.call('DEL', KEYS[2])
end
observe(KEYS[3], id, r, 2)
save(key, r)
note_risen(KEYS[4], id, before, r.c)
return whole('ok', r, KEYS[2])

-- Takes over what the chain says; an unknown channel is opened with the payer's own evidence.
-- KEYS  record, channels that owe, all channels
-- ARGV  channel id, packed network and config, balance, claimed, withdraw amount, requested at,
--       refund nonce, block, read at ms, withdraw delay, evidence, '1' ends a refund
local id, balance, claimed = ARGV[1], ARGV[3], ARGV[4]
local r = load(KEYS[1], 'bl', 'c', 'k')
if not r then
  if ARGV[12] == '1' then return {'unknown'} end
  local evidence = less(balance, ARGV[11]) and balance or ARGV[11]
  local charged = max(claimed, evidence)
  redis.call('HSET', KEYS[1], 's', ARGV[2], 'dl', ARGV[10], 'c', charged, 'f', charged, 'w', ' ',
    'n', '0', 'hp', '0', 'hn', '0', 'he', '0', 'd', ' ', 'u', '0', 'bl', '-1', 'k', claimed)
  redis.call('ZADD', KEYS[3], 0, id)
  r = {bl = '-1', c = charged}
end
if ARGV[12] == '1' then redis.call('HDEL', KEYS[1], 'ra', 'rx', 'rq') end
if tonumber(ARGV[8]) >= tonumber(r.bl) then
  local charged = max(r.c, claimed)
  redis.call('HSET', KEYS[1], 'b', balance, 'k', claimed, 'wa', ARGV[5], 'wt', ARGV[6],
    'rn', ARGV[7], 'bl', ARGV[8], 'rd', ARGV[9], 'c', charged)
  redis.call(charged == claimed and 'SREM' or 'SADD', KEYS[2], id)
end
return {'ok'}

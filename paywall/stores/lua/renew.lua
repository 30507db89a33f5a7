-- Keeps the holds of requests that still run; one that is gone is passed over.
-- KEYS  record, holds    ARGV  request...
local key, holds = KEYS[1], KEYS[2]
-- Who is served is kept, though there be no memory.
local r = load(key, 'GETEX')
if not r then return {'ok'} end
local deadline = integer(now_ms() + HOLD_MS)
for _, request in ipairs(ARGV) do
  local price, amount, _, inside = hold_of(r, holds, request)
  if price then
    local hold = price .. ' ' .. amount .. ' ' .. deadline
    if inside then
      r.h = hold .. ' ' .. request
      save(key, r)
    else
      redis.call('HSET', holds, request, hold)
    end
  end
end
return {'ok'}

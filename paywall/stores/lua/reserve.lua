-- Admits a request: holds its price and remembers its voucher, or says why not.
-- KEYS  record, holds, entry of the payment's id (the record again when there is none)
-- ARGV  voucher amount, signature, price, request, hold ms, window, most holds,
--       fingerprint ('' without an id), ms that an entry lives
local amount, signature, price, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local hold_ms, window, most_holds = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local fingerprint, entry_ms = ARGV[8], ARGV[9]
local now = now_ms()
local r = load(KEYS[1], 'b', 'k', 'c', 'v', 'f', 'w', 'n', 'hp', 'hn', 'he', 'wa', 'wt', 'dl',
  'rd', 'rn', 'bl', 'ra', 'rx')
if not r then return {'chain'} end

local again = false
if fingerprint ~= '' then
  local entry = redis.call('HMGET', KEYS[3], 'f', 'r', 'a', 't')
  if entry[1] then
    if entry[1] ~= fingerprint then return {'conflict'} end
    if entry[3] then return {'answer', entry[3], entry[4]} end
    if entry[2] ~= request then
      local other = redis.call('HGET', KEYS[2], entry[2])
      if other then
        local _, _, deadline = parsed(other)
        if deadline > now then return {'progress'} end
      end
      again = true
    end
  end
end

local mine = redis.call('HGET', KEYS[2], request)
if mine then
  local held_price, held_amount = parsed(mine)
  if held_price == price and held_amount == amount then return standing('ok', r) end
  return {'conflict'}
end
local delay = tonumber(r.dl)
if now >= r.rd + math.floor(delay * 1000 / 3) then return {'chain'} end

local dropped = drop_expired(KEYS[2], r, now)
local function refuse(reason)
  if dropped then redis.call('HSET', KEYS[1], 'hp', r.hp, 'hn', r.hn, 'he', r.he) end
  return {'refused', reason}
end
local refunding = '0'
if r.ra and tonumber(r.rx) > now then refunding = r.ra end
local requested = tonumber(r.wt)
if requested > 0 and now >= (requested + delay - math.floor(delay / 3)) * 1000 then
  return refuse('CHANNEL_CLOSING')
end
if less(r.b, add(amount, refunding)) then return refuse('EXCEEDS_BALANCE') end
if not less(r.k, amount) then return refuse('BELOW_CLAIMED') end
local seen = has(r.w, amount)
if not again and (seen or not less(r.f, amount)) then return refuse('CUMULATIVE_MISMATCH') end
local signed = r.v or r.c
if less(max(amount, signed), add(add(r.c, r.hp), price)) then
  return refuse('CUMULATIVE_MISMATCH')
end
-- A voucher from before a withdrawal may promise more than the balance that is left.
if less(r.b, add(add(add(r.c, r.hp), refunding), price)) then return refuse('EXCEEDS_BALANCE') end
if tonumber(r.hn) >= most_holds then return refuse('CHANNEL_BUSY') end

if not seen and less(r.f, amount) then
  r.w, r.n = r.w .. amount .. ' ', r.n + 1
  if r.n > window then
    local list = words(r.w)
    table.sort(list, less)
    r.f = table.remove(list, 1)
    r.w, r.n = listed(list), #list
  end
end
local deadline = now + hold_ms
r.hp, r.hn = add(r.hp, price), r.hn + 1
if r.he == '0' or deadline < tonumber(r.he) then r.he = integer(deadline) end
redis.call('HSET', KEYS[1], 'w', r.w, 'n', integer(r.n), 'f', r.f, 'hp', r.hp,
  'hn', integer(r.hn), 'he', r.he, 'u', integer(now))
if not r.v or less(r.v, amount) then redis.call('HSET', KEYS[1], 'v', amount, 'g', signature) end
redis.call('HSET', KEYS[2], request, price .. ' ' .. amount .. ' ' .. integer(deadline))
if fingerprint ~= '' then
  redis.call('HSET', KEYS[3], 'f', fingerprint, 'r', request)
  redis.call('PEXPIRE', KEYS[3], entry_ms)
end
return standing('ok', r)

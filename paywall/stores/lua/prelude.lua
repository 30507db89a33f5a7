-- What every script begins with: exact decimal amounts, the clock, and the channel's record.
--
-- An amount is a decimal string of up to 39 digits without leading zeros, because a Lua number is
-- exact only to 2^53. Short ones are added as numbers, long ones in limbs of 14 digits.
--
-- The record is a hash. Its fields:
--   s  network and config, packed          c  charged
--   b  balance       k  claimed            v  highest voucher's amount    g  its signature
--   wa withdraw amount   wt requested at   f  floor of the window         w  amounts in it, " a b c "
--   rn refund nonce      bl block          n  how many are in it
--   rd read at (ms)      dl delay (s)      hp held total   hn holds   he earliest deadline (ms)
--   u  used at (ms)      d  requests charged last, " r1 r2 "
--   ra refunding amount  rx its deadline (ms)   rq its request
--   pv, pg  amount and signature of the highest voucher of before a refund
-- `v` and `g` are there once a voucher came, `ra`, `rx` and `rq` while a refund is set aside. `he` may
-- be earlier than the earliest deadline, never later, and is '0' when there is nothing to drop.
-- The holds are a second hash: request -> "price amount deadline".
-- The entry of a payment's id is a third: f fingerprint, r request, x expires (ms), and once it was
-- charged a answer, t total. It expires by itself; `x` is there because it may be late in doing so.
-- The channels that owe are a sorted set, scored by what they owe, negated: the largest come first,
-- and equal ones in the order of their ids. A score is rounded, an amount never is.
--
-- A script that refuses has written nothing, and nor has one that fails, on a key of a wrong type or
-- for lack of memory: keys are read, and indexes written, before anything else is.

local LIMB = 14

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function max(a, b)
  return less(a, b) and b or a
end

local function limb(text, at)
  if at < 1 then return 0 end
  return tonumber(string.sub(text, math.max(1, at - LIMB + 1), at))
end

local function trimmed(limbs)
  local text = string.gsub(table.concat(limbs), '^0+', '')
  return text == '' and '0' or text
end

local function integer(number)
  return string.format('%.0f', number)
end

local function add(a, b)
  if #a <= LIMB and #b <= LIMB then return integer(tonumber(a) + tonumber(b)) end
  local out, carry, i, j = {}, 0, #a, #b
  while i > 0 or j > 0 or carry > 0 do
    local sum = limb(a, i) + limb(b, j) + carry
    carry = sum >= 1e14 and 1 or 0
    table.insert(out, 1, string.format('%014.0f', sum - carry * 1e14))
    i, j = i - LIMB, j - LIMB
  end
  return trimmed(out)
end

-- a - b, for a >= b.
local function sub(a, b)
  if #a <= LIMB then return integer(tonumber(a) - tonumber(b)) end
  local out, borrow, i, j = {}, 0, #a, #b
  while i > 0 do
    local rest = limb(a, i) - limb(b, j) - borrow
    borrow = rest < 0 and 1 or 0
    table.insert(out, 1, string.format('%014.0f', rest + borrow * 1e14))
    i, j = i - LIMB, j - LIMB
  end
  return trimmed(out)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function words(text)
  local list = {}
  for word in string.gmatch(text, '%S+') do
    list[#list + 1] = word
  end
  return list
end

local function listed(list)
  if #list == 0 then return ' ' end
  return ' ' .. table.concat(list, ' ') .. ' '
end

local function has(list, word)
  return string.find(list, ' ' .. word .. ' ', 1, true) ~= nil
end

local function parsed(hold)
  local price, amount, deadline = string.match(hold, '^(%d+) (%d+) (%d+)$')
  return price, amount, tonumber(deadline)
end

-- The fields of a record as a table, or nil for an unknown channel. The first one is always there.
local function load(key, ...)
  local names = {...}
  local values = redis.call('HMGET', key, ...)
  if not values[1] then return nil end
  local record = {}
  for at = 1, #names do
    record[names[at]] = values[at]
  end
  return record
end

-- A voucher that is good again.
local function forget(record, amount)
  if has(record.w, amount) then
    record.w = string.gsub(record.w, ' ' .. amount .. ' ', ' ', 1)
    record.n = record.n - 1
  end
end

-- Takes the holds whose worker has died off the record, and returns their requests: nothing is
-- written yet. Nothing was or will be charged for them, so their vouchers are good again.
local function without_expired(holds, record, now)
  local expired = {}
  if record.he == '0' or now < tonumber(record.he) then return expired end
  local earliest, all = 0, redis.call('HGETALL', holds)
  for at = 1, #all, 2 do
    local price, amount, deadline = parsed(all[at + 1])
    if deadline <= now then
      expired[#expired + 1] = all[at]
      record.hp, record.hn = sub(record.hp, price), record.hn - 1
      forget(record, amount)
    elseif earliest == 0 or deadline < earliest then
      earliest = deadline
    end
  end
  record.he = integer(earliest)
  return expired
end

local function drop(holds, expired)
  if #expired > 0 then redis.call('HDEL', holds, unpack(expired)) end
end

-- Keeps the channel in the index while it owes something that a signature proves.
local function index(due, id, voucher, charged, claimed)
  if voucher and charged ~= claimed then
    redis.call('ZADD', due, '-' .. sub(charged, claimed), id)
  else
    redis.call('ZREM', due, id)
  end
end

-- What was decided under this payment's id: an answer to give instead, and whether an entry is there
-- that has expired.
local function once(entry_key, holds, fingerprint, request, now)
  local entry = redis.call('HMGET', entry_key, 'f', 'r', 'x', 'a', 't')
  if not entry[1] then return nil, false end
  if tonumber(entry[3]) <= now then return nil, true end
  if entry[1] ~= fingerprint then return {'conflict'} end
  if entry[4] == '' then return {'not kept'} end
  if entry[4] then return {'answer', entry[4], entry[5]} end
  if entry[2] == request then return nil, false end
  local hold = redis.call('HGET', holds, entry[2])
  if hold then
    local _, _, deadline = parsed(hold)
    if deadline > now then return {'progress'} end
  end
  return nil, false
end

-- Takes over what the chain says into a loaded record; an older reading is ignored.
-- `at` is where in ARGV it begins: balance, claimed, withdraw amount, requested at, refund nonce,
-- block, read at (ms).
local function observe(key, due, id, record, at)
  local balance, claimed, block = ARGV[at], ARGV[at + 1], ARGV[at + 5]
  if tonumber(block) < tonumber(record.bl) then return end
  local charged = max(record.c, claimed)
  index(due, id, record.v, charged, claimed)
  redis.call('HSET', key, 'b', balance, 'k', claimed, 'wa', ARGV[at + 2], 'wt', ARGV[at + 3],
    'rn', ARGV[at + 4], 'bl', block, 'rd', ARGV[at + 6], 'c', charged)
end

-- Fails, before anything is written, when one of these keys is somebody else's.
local function ours(holds, due)
  redis.call('HLEN', holds)
  redis.call('ZCARD', due)
end

-- What the gate wants to know of a channel after a verb.
local function standing(r)
  return {'ok', r.c, r.hp, r.b, r.k, r.wa, r.wt, r.rn, r.bl, r.rd}
end

-- The channel as it stands.
local function whole(word, key, holds)
  return {word, redis.call('HGETALL', key), redis.call('HGETALL', holds)}
end

-- The refusal shows the payer its own channel, as of `now`.
local function refused(reason, key, holds, now)
  return {'refused', redis.call('HGETALL', key), redis.call('HGETALL', holds), reason, integer(now)}
end

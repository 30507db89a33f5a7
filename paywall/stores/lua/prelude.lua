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
-- The holds are a second hash: request -> "price amount deadline".

local LIMB = 14

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function limb(text, at)
  if at < 1 then return 0 end
  return tonumber(string.sub(text, math.max(1, at - LIMB + 1), at))
end

local function trimmed(limbs)
  local text = string.gsub(table.concat(limbs), '^0+', '')
  return text == '' and '0' or text
end

local function add(a, b)
  if #a <= LIMB and #b <= LIMB then
    return string.format('%.0f', tonumber(a) + tonumber(b))
  end
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
  if #a <= LIMB then
    return string.format('%.0f', tonumber(a) - tonumber(b))
  end
  local out, borrow, i, j = {}, 0, #a, #b
  while i > 0 do
    local rest = limb(a, i) - limb(b, j) - borrow
    borrow = rest < 0 and 1 or 0
    table.insert(out, 1, string.format('%014.0f', rest + borrow * 1e14))
    i, j = i - LIMB, j - LIMB
  end
  return trimmed(out)
end

local function max(a, b)
  return less(a, b) and b or a
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(number)
  return string.format('%.0f', number)
end

local function words(text)
  local list = {}
  for word in string.gmatch(text, '%S+') do
    list[#list + 1] = word
  end
  return list
end

local function listed(words_of)
  if #words_of == 0 then return ' ' end
  return ' ' .. table.concat(words_of, ' ') .. ' '
end

local function has(list, word)
  return string.find(list, ' ' .. word .. ' ', 1, true) ~= nil
end

local function parsed(hold)
  local price, amount, deadline = string.match(hold, '^(%d+) (%d+) (%d+)$')
  return price, amount, tonumber(deadline)
end

-- The fields of a record as a table, or nil for an unknown channel.
local function load(key, ...)
  local names = {...}
  local values = redis.call('HMGET', key, unpack(names))
  if not values[1] then return nil end
  local record = {}
  for at, name in ipairs(names) do
    record[name] = values[at]
  end
  return record
end

-- Drops holds whose worker has died; their vouchers stay used. Changes record.hp, hn, he.
local function drop_expired(holds, record, now)
  if record.he == '0' or now < tonumber(record.he) then return false end
  local earliest = 0
  local all = redis.call('HGETALL', holds)
  for at = 1, #all, 2 do
    local price, _, deadline = parsed(all[at + 1])
    if deadline <= now then
      redis.call('HDEL', holds, all[at])
      record.hp = sub(record.hp, price)
      record.hn = integer(record.hn - 1)
    elseif earliest == 0 or deadline < earliest then
      earliest = deadline
    end
  end
  record.he = integer(earliest)
  return true
end

-- What the gate wants to know of a channel after a verb.
local function standing(word, r)
  return {word, r.c, r.hp, r.b, r.k, r.wa, r.wt, r.rn, r.bl, r.rd}
end

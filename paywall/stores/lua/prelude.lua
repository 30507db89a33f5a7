-- What every script begins with: exact decimal amounts, the clock, and the channel's record.
--
-- An amount is a decimal string of up to 39 digits without leading zeros, because a Lua number is
-- exact only to 2^53. Short ones are added as numbers, long ones in limbs of 14 digits.
--
-- The record is one string, which is read and written whole. It begins with \1, its version. Then come
-- twenty words ('-' for one that is not there), each with a space behind it:
--   b  balance           k  claimed            c  charged             v  highest voucher's amount
--   f  floor of the window                     n  how many amounts are in it
--   hp held total        hn holds              he earliest deadline (ms)
--   wa withdraw amount   wt requested at       dl delay (s)           rd read at (ms)
--   rn refund nonce      bl block              u  used at (ms)
--   ra refunding amount  rx its deadline (ms)  rq its request
--   pv amount of the highest voucher of before a refund
-- then, each behind a new line, w, the amounts in the window, " a b c ", and d, the requests charged
-- last, " r1 r2 ", and some before them, which count no longer; and behind one more the bytes: g, the signature of v, pg, that of pv, each of 65 bytes
-- when there is one, and s, network and config, packed.
-- `v` and `g` are there once a voucher came, `ra`, `rx` and `rq` while a refund is set aside. `he` may
-- be earlier than the earliest deadline, never later, and is '0' when there is nothing to drop.
-- Records were hashes once, whose fields had these names: they are read, and written as strings.
-- The holds are a hash: request -> "price amount deadline".
-- The entry of a payment's id is a string that expires: "x request total fingerprint answer", where x is
-- when it expires (ms), because it may be late in doing so; total is '-' until it was charged.
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
  if b == '0' then return a elseif a == '0' then return b end
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
  if b == '0' then return a elseif a == b then return '0' end
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

local WORDS = '^\1' .. string.rep('(%S+) ', 20) .. '\n()'
local SIGNATURE = 65

-- Fails as Redis does for a key of another type: it is somebody else's, or of a version to come.
local function foreign(key)
  redis.call('LLEN', key)
  error('a key of ours is of another type')
end

local function given(word)
  if word ~= '-' then return word end
end

-- The record as it is written.
local function packed(r)
  return '\1' .. r.b .. ' ' .. r.k .. ' ' .. r.c .. ' ' .. (r.v or '-') .. ' ' .. r.f .. ' ' .. r.n .. ' '
    .. r.hp .. ' ' .. r.hn .. ' ' .. r.he .. ' ' .. r.wa .. ' ' .. r.wt .. ' ' .. r.dl .. ' ' .. r.rd .. ' '
    .. r.rn .. ' ' .. r.bl .. ' ' .. r.u .. ' ' .. (r.ra or '-') .. ' ' .. (r.rx or '-') .. ' '
    .. (r.rq or '-') .. ' ' .. (r.pv or '-') .. ' \n' .. r.w .. '\n' .. r.d .. '\n'
    .. (r.v and r.g or '') .. (r.pv and r.pg or '') .. r.s
end

local function save(key, r)
  redis.call('SET', key, packed(r))
end

-- A record from when records were hashes, as it would be written now.
local function converted(key)
  if redis.call('TYPE', key).ok ~= 'hash' then foreign(key) end
  local flat, r = redis.call('HGETALL', key), {}
  for at = 1, #flat, 2 do
    r[flat[at]] = flat[at + 1]
  end
  if not r.s then foreign(key) end
  r.u, r.d = r.u or '0', r.d or ' '
  return packed(r)
end

-- The record as its owner reads it, or nil for an unknown channel.
local function text_of(key)
  local text = redis.pcall('GET', key)
  if not text then return nil end
  if type(text) == 'table' then return converted(key) end
  return text
end

-- What stands from `at` to the end of its line, and where the next one begins.
local function line_at(key, text, at)
  local stop = string.find(text, '\n', at, true)
  if not stop then foreign(key) end
  return string.sub(text, at, stop - 1), stop + 1
end

-- The record as a table, or nil for an unknown channel.
local function load(key)
  local text = text_of(key)
  if not text then return nil end
  local r, at = {}, nil
  r.b, r.k, r.c, r.v, r.f, r.n, r.hp, r.hn, r.he, r.wa, r.wt, r.dl, r.rd, r.rn, r.bl, r.u, r.ra, r.rx,
    r.rq, r.pv, at = string.match(text, WORDS)
  if not at then foreign(key) end
  r.w, at = line_at(key, text, at)
  r.d, at = line_at(key, text, at)
  r.v, r.ra, r.rx, r.rq, r.pv = given(r.v), given(r.ra), given(r.rx), given(r.rq), given(r.pv)
  if r.v then
    r.g, at = string.sub(text, at, at + SIGNATURE - 1), at + SIGNATURE
  end
  if r.pv then
    r.pg, at = string.sub(text, at, at + SIGNATURE - 1), at + SIGNATURE
  end
  r.s = string.sub(text, at)
  return r
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

-- The entry of a payment's id: fingerprint, request, when it expires, total, answer. Nothing where
-- there is none. The last two are nil while the request runs.
local function entry_of(key)
  local text = redis.pcall('GET', key)
  if not text then return nil end
  if type(text) == 'table' then
    if redis.call('TYPE', key).ok ~= 'hash' then foreign(key) end
    local old = redis.call('HMGET', key, 'f', 'r', 'x', 't', 'a')
    if not old[1] then foreign(key) end
    return old[1], old[2], tonumber(old[3]), old[4] or nil, old[5] or nil
  end
  local expires, request, total, at = string.match(text, '^(%d+) (%S+) (%S+) ()')
  if not at then foreign(key) end
  total = given(total)
  return string.sub(text, at, at + 31), request, tonumber(expires), total,
    total and string.sub(text, at + 32)
end

local function keep_entry(key, fingerprint, request, now, ms, total, answer)
  local text = integer(now + ms) .. ' ' .. request .. ' ' .. (total or '-') .. ' ' .. fingerprint
  redis.call('SET', key, text .. (answer or ''), 'PX', ms)
end

-- In the place of the request of a payment that was refused. It has no total.
local REFUSED = '-'

-- What was decided under this payment's id: an answer to give instead, or nothing.
local function once(entry_key, holds, fingerprint, request, now)
  local its, other, expires, total, answer = entry_of(entry_key)
  if not its or expires <= now then return nil end
  if other == REFUSED then
    if its == fingerprint then return {'refused before'} end
    return nil
  end
  if its ~= fingerprint then return {'conflict'} end
  if answer == '' then return {'not kept'} end
  if answer then return {'answer', answer, total} end
  if other == request then return nil end
  local hold = redis.call('HGET', holds, other)
  if hold then
    local _, _, deadline = parsed(hold)
    if deadline > now then return {'progress'} end
  end
  return nil
end

-- Takes over what the chain says into a loaded record; an older reading is ignored. The record is not
-- written yet. `at` is where in ARGV it begins: balance, claimed, withdraw amount, requested at, refund
-- nonce, block, read at (ms).
local function observe(due, id, r, at)
  if tonumber(ARGV[at + 5]) < tonumber(r.bl) then return end
  r.b, r.k, r.wa, r.wt = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  r.rn, r.bl, r.rd = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  r.c = max(r.c, r.k)
  index(due, id, r.v, r.c, r.k)
end

-- Fails, before anything is written, when one of these keys is somebody else's.
local function ours(holds, due)
  redis.call('HLEN', holds)
  redis.call('ZCARD', due)
end

-- One more line of the ledger.
local function note(log, line)
  if line ~= '' then redis.call('XADD', log, '*', 'l', line) end
end

-- A total that rose without a request has a line too.
local function note_risen(log, id, before, after)
  if after ~= before then redis.call('XADD', log, '*', 'i', id, 'a', sub(after, before)) end
end

-- What the gate wants to know of a channel after a verb, in one string: most of it is what the chain
-- said, which seldom changes.
local function standing(r)
  return r.c .. ' ' .. r.hp .. ' ' .. r.b .. ' ' .. r.k .. ' ' .. r.wa .. ' ' .. r.wt .. ' ' .. r.rn .. ' '
    .. r.bl .. ' ' .. r.rd
end

-- The channel as it stands.
local function whole(word, r, holds)
  return {word, packed(r), redis.call('HGETALL', holds)}
end

-- The refusal shows the payer its own channel, as of `now`.
local function refused(reason, key, holds, now)
  return {'refused', text_of(key), redis.call('HGETALL', holds), reason, integer(now)}
end

-- What scripts begin with, each with what it uses: exact decimal amounts, the clock, and the channel's
-- record. A server makes every function of a script anew when it runs it, so what is rare stands inside
-- of what is rare.
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

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function max(a, b)
  return less(a, b) and b or a
end

local LIMB = 14

local function integer(number)
  return string.format('%.0f', number)
end

-- a + sign * b, where that is not below 0.
local function in_limbs(a, b, sign)
  local function limb(text, at)
    if at < 1 then return 0 end
    return tonumber(string.sub(text, math.max(1, at - LIMB + 1), at))
  end
  local out, carry, i, j = {}, 0, #a, #b
  while i > 0 or j > 0 or carry ~= 0 do
    local sum = limb(a, i) + sign * limb(b, j) + carry
    carry = math.floor(sum / 1e14)
    table.insert(out, 1, string.format('%014.0f', sum - carry * 1e14))
    i, j = i - LIMB, j - LIMB
  end
  local text = string.gsub(table.concat(out), '^0+', '')
  return text == '' and '0' or text
end

local function add(a, b)
  if b == '0' then return a elseif a == '0' then return b end
  if #a <= LIMB and #b <= LIMB then return integer(a + b) end
  return in_limbs(a, b, 1)
end

-- a - b, for a >= b.
local function sub(a, b)
  if b == '0' then return a elseif a == b then return '0' end
  if #a <= LIMB then return integer(a - b) end
  return in_limbs(a, b, -1)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function has(list, word)
  return string.find(list, ' ' .. word .. ' ', 1, true) ~= nil
end

local function parsed(hold)
  local price, amount, deadline = string.match(hold, '^(%d+) (%d+) (%d+)$')
  return price, amount, tonumber(deadline)
end

local WORDS = '^\1(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) \n()'
local SIGNATURE = 65

-- Fails as Redis does for a key of another type: it is somebody else's, or of a version to come.
local function foreign(key)
  redis.call('LLEN', key)
  error('a key of ours is of another type')
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

-- The record as its owner reads it, or nil for an unknown channel. By GETEX, which changes nothing, a
-- script counts as one that writes from then on: a server without memory lets it go on.
local function text_of(key, command)
  local text = redis.pcall(command or 'GET', key)
  if not text then return nil end
  if type(text) == 'string' then return text end
  -- A record from when records were hashes, as it would be written now.
  if redis.call('TYPE', key).ok ~= 'hash' then foreign(key) end
  local flat, r = redis.call('HGETALL', key), {}
  for at = 1, #flat, 2 do
    r[flat[at]] = flat[at + 1]
  end
  if not r.s then foreign(key) end
  r.u, r.d = r.u or '0', r.d or ' '
  return packed(r)
end

-- The record as a table, or nil for an unknown channel.
local function load(key, command)
  local text = text_of(key, command)
  if not text then return nil end
  local b, k, c, v, f, n, hp, hn, he, wa, wt, dl, rd, rn, bl, u, ra, rx, rq, pv, at =
    string.match(text, WORDS)
  local w_end = at and string.find(text, '\n', at, true)
  local d_end = w_end and string.find(text, '\n', w_end + 1, true)
  if not d_end then foreign(key) end
  local w, d, g, pg = string.sub(text, at, w_end - 1), string.sub(text, w_end + 1, d_end - 1), nil, nil
  at = d_end + 1
  if v == '-' then v = nil else g, at = string.sub(text, at, at + SIGNATURE - 1), at + SIGNATURE end
  if pv == '-' then pv = nil else pg, at = string.sub(text, at, at + SIGNATURE - 1), at + SIGNATURE end
  if ra == '-' then ra, rx, rq = nil, nil, nil end
  -- Made in one piece, for one that grows is moved each time.
  return {b = b, k = k, c = c, v = v, f = f, n = n, hp = hp, hn = hn, he = he, wa = wa, wt = wt, dl = dl,
    rd = rd, rn = rn, bl = bl, u = u, ra = ra, rx = rx, rq = rq, pv = pv, w = w, d = d, g = g, pg = pg,
    s = string.sub(text, at)}
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

-- The id that a record's key ends with, in hexadecimal digits.
local function id_of(key)
  local id = string.gsub(string.sub(key, -64), '%x%x', function(digits)
    return string.char(tonumber(digits, 16))
  end)
  return id
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
  if total == '-' then total = nil end
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

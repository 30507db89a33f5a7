-- What scripts begin with, each with what it uses: exact decimal amounts, the clock, and the channel's
-- record. A server makes every function of a script anew when it runs it, so what is rare stands inside
-- of what is rare.
--
-- An amount is a decimal string of up to 39 digits without leading zeros, because a Lua number is
-- exact only to 2^53. Short ones are added as numbers, long ones in limbs of 14 digits.
--
-- The record is one string, which is read and written whole. It begins with \2, its version. Then come
-- lines of words ('-' for one that is not there):
--   c  charged           hp held total         hn holds               he the earliest deadline (ms)
--   v  highest voucher's amount                f  floor of the window n  how many amounts are in it
--   u  used at (ms)
-- what the chain said, in the order in which a verb answers it, and the delay:
--   b  balance           k  claimed            wa withdraw amount     wt requested at
--   rn refund nonce      bl block              rd read at (ms)        dl delay (s)
-- what is seldom there, or nothing:
--   ra refunding amount  rx its deadline (ms)  rq its request, behind a + when it is sent again
--   pv amount of the highest voucher of before a refund
-- one of the holds, "price amount deadline request", or nothing; w, the amounts in the window, " a b c ",
-- and d, the requests charged last, " r1 r2 ", and some before them, which count no longer. Behind these
-- lines are bytes: the signature of v, that of pv, each of 65 bytes when there is one, and network and
-- config, packed.
-- `v` is there once a voucher came, `ra`, `rx` and `rq` while a refund is set aside. `he` may be earlier
-- than the earliest deadline, never later, and is '0' when there is nothing to drop.
-- The other holds are a hash: request -> "price amount deadline". So a channel that serves one request at
-- a time is one key.
-- In version 1 the words stood in one line, and all holds in the hash; before that a record was a hash,
-- whose fields had these names. Both are read, and written as they are now.
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

-- A number as text. To write it takes longer than most that a script does, so it is done once.
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

-- The record as it is written.
local function packed(r)
  local rare = ''
  if r.ra or r.pv then
    rare = (r.ra or '-') .. ' ' .. (r.rx or '-') .. ' ' .. (r.rq or '-') .. ' ' .. (r.pv or '-')
  end
  return '\2' .. r.c .. ' ' .. r.hp .. ' ' .. r.hn .. ' ' .. r.he .. ' ' .. (r.v or '-') .. ' ' .. r.f .. ' '
    .. r.n .. ' ' .. r.u .. '\n' .. r.chain .. ' ' .. r.dl .. '\n' .. rare .. '\n' .. r.h .. '\n' .. r.w .. '\n'
    .. r.d .. '\n' .. r.tail
end

local function save(key, r)
  redis.call('SET', key, packed(r))
end

-- A record of before this version, as it would be written now. LLEN fails as Redis does for a key of
-- another type: it is somebody else's. A server that will not be written to says so once more.
local function converted(key, text, command)
  local r = {}
  if type(text) == 'string' then
    local names, at = {'b', 'k', 'c', 'v', 'f', 'n', 'hp', 'hn', 'he', 'wa', 'wt', 'dl', 'rd', 'rn', 'bl', 'u',
      'ra', 'rx', 'rq', 'pv'}, 2
    for _, name in ipairs(names) do
      r[name], at = string.match(text, '^(%S+) ()', at)
      if not at then redis.call('LLEN', key) end
      if r[name] == '-' then r[name] = nil end
    end
    r.w, r.d, r.tail = string.match(text, '^\n([^\n]*)\n([^\n]*)\n(.*)$', at)
    if not r.tail then redis.call('LLEN', key) end
  else
    if not string.find(text.err, 'WRONGTYPE', 1, true) then redis.call(command, key) end
    local flat = redis.call('HGETALL', key)
    for at = 1, #flat, 2 do
      r[flat[at]] = flat[at + 1]
    end
    if not r.s then redis.call('LLEN', key) end
    r.u, r.d = r.u or '0', r.d or ' '
    r.tail = (r.v and r.g or '') .. (r.pv and r.pg or '') .. r.s
  end
  r.h = ''
  r.chain = r.b .. ' ' .. r.k .. ' ' .. r.wa .. ' ' .. r.wt .. ' ' .. r.rn .. ' ' .. r.bl .. ' ' .. r.rd
  return packed(r)
end

local HEAD = '^\2(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)\n((%S+) (%S+) %S+ %S+ %S+ %S+ %S+) (%S+)\n([^\n]*)\n()'

-- The record as a table, and as its owner reads it; nothing for an unknown channel. By GETEX, which
-- changes nothing, a script counts as one that writes from then on: a server without memory lets it go on.
local function load(key, command)
  local text = redis.pcall(command or 'GET', key)
  if not text then return nil end
  if type(text) ~= 'string' or string.byte(text) == 1 then text = converted(key, text, command) end
  local c, hp, hn, he, v, f, n, u, chain, b, k, dl, rare, at = string.match(text, HEAD)
  local h_end = at and string.find(text, '\n', at, true)
  local w_end = h_end and string.find(text, '\n', h_end + 1, true)
  local d_end = w_end and string.find(text, '\n', w_end + 1, true)
  if not d_end then redis.call('LLEN', key) end
  if v == '-' then v = nil end
  -- Made in one piece and of sixteen fields, for one that grows is moved each time.
  local r = {c = c, hp = hp, hn = hn, he = he, v = v, f = f, n = n, u = u, chain = chain, b = b, k = k, dl = dl,
    h = string.sub(text, at, h_end - 1), w = string.sub(text, h_end + 1, w_end - 1),
    d = string.sub(text, w_end + 1, d_end - 1), tail = string.sub(text, d_end + 1)}
  if rare ~= '' then
    r.ra, r.rx, r.rq, r.pv = string.match(rare, '^(%S+) (%S+) (%S+) (%S+)$')
    if r.ra == '-' then r.ra, r.rx, r.rq = nil, nil, nil end
    if r.pv == '-' then r.pv = nil end
  end
  return r, text
end

-- A voucher that is good again.
local function forget(record, amount)
  local first, last = string.find(record.w, ' ' .. amount .. ' ', 1, true)
  if first then
    record.w = string.sub(record.w, 1, first) .. string.sub(record.w, last + 1)
    record.n = record.n - 1
  end
end

-- How long a signature is in the bytes at the end of a record.
local SIGNATURE = 65

local HOLD = '^(%d+) (%d+) (%d+)'

-- Price, amount and deadline of a request's hold, and whether it stands in the record; nothing when it
-- has none.
local function hold_of(r, holds, request)
  local price, amount, deadline, first = string.match(r.h, '^(%d+) (%d+) (%d+) (.*)$')
  if first == request then return price, amount, deadline, true end
  -- A key that is not there is dear to look for.
  if tonumber(r.hn) == (first and 1 or 0) then return nil end
  local hold = redis.call('HGET', holds, request)
  if not hold then return nil end
  price, amount, deadline = string.match(hold, HOLD)
  return price, amount, deadline, false
end

-- Takes off a hold that is there.
local function drop_hold(r, holds, request, price, inside)
  if inside then
    r.h = ''
  else
    redis.call('HDEL', holds, request)
  end
  r.hp, r.hn = sub(r.hp, price), r.hn - 1
  if r.hn == 0 then r.hn, r.he = '0', '0' end
end

-- Takes the holds whose worker has died off the record, and returns those requests that are to be taken
-- off the hash: nothing is written yet. Nothing was or will be charged for them, so their vouchers are
-- good again.
local function without_expired(r, holds, now)
  local expired = {}
  if r.he == '0' or now < tonumber(r.he) then return expired end
  local earliest = 0
  local function is_over(price, amount, deadline)
    deadline = tonumber(deadline)
    if deadline <= now then
      r.hp, r.hn = sub(r.hp, price), r.hn - 1
      forget(r, amount)
      return true
    end
    if earliest == 0 or deadline < earliest then earliest = deadline end
  end
  local all = redis.call('HGETALL', holds)
  for at = 1, #all, 2 do
    if is_over(string.match(all[at + 1], HOLD)) then expired[#expired + 1] = all[at] end
  end
  if r.h ~= '' and is_over(string.match(r.h, HOLD)) then r.h = '' end
  r.he = integer(earliest)
  return expired
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
-- there is none. The last two are nil while the request runs. Once it was a hash, with these fields.
local function entry_of(key)
  local text = redis.pcall('GET', key)
  if not text then return nil end
  if type(text) ~= 'string' then
    local old = redis.call('HMGET', key, 'f', 'r', 'x', 't', 'a')
    if not old[1] then redis.call('LLEN', key) end
    return old[1], old[2], tonumber(old[3]), old[4] or nil, old[5] or nil
  end
  local expires, request, total, at = string.match(text, '^(%d+) (%S+) (%S+) ()')
  if not at then redis.call('LLEN', key) end
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

-- What was decided under this payment's id: an answer to give instead, or nothing. `r` is the record of
-- its channel when it is known.
local function once(entry_key, fingerprint, request, now, key, holds, r)
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
  r = r or load(key)
  local _, _, deadline = hold_of(r or {h = '', hn = 0}, holds, other)
  if deadline and tonumber(deadline) > now then return {'progress'} end
  return nil
end

-- Takes over what the chain says into a loaded record; an older reading is ignored. The record is not
-- written yet. `at` is where in ARGV it begins: balance, claimed, withdraw amount, requested at, refund
-- nonce, block, read at (ms).
local function observe(due, id, r, at)
  local block = r.chain and string.match(r.chain, '^%S+ %S+ %S+ %S+ %S+ (%S+)')
  if block and tonumber(ARGV[at + 5]) < tonumber(block) then return end
  -- What was signed under a nonce that is counted can leave no more.
  if r.ra and less(string.match(r.chain, '^%S+ %S+ %S+ %S+ (%S+)'), ARGV[at + 4]) then r.ra = '0' end
  -- A deposit is a use.
  if r.b and less(r.b, ARGV[at]) then r.u = max(r.u, ARGV[at + 6]) end
  r.chain, r.b, r.k = table.concat(ARGV, ' ', at, at + 6), ARGV[at], ARGV[at + 1]
  r.c = max(r.c, r.k)
  index(due, id, r.v, r.c, r.k)
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
  return r.c .. ' ' .. r.hp .. ' ' .. r.chain
end

-- The channel as it stands.
local function whole(word, r, holds)
  return {word, packed(r), redis.call('HGETALL', holds)}
end

-- The refusal shows the payer its own channel, as it was before the verb, as of `now`.
local function refused(reason, text, holds, now)
  return {'refused', text, redis.call('HGETALL', holds), reason, integer(now)}
end

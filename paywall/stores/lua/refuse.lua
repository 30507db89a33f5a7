-- Remembers that a payment was refused, and its payer told so; or says what was decided meanwhile.
-- KEYS  record, holds, entry of the payment's id    ARGV  fingerprint
local now = now_ms()
local decided = once(KEYS[3], ARGV[1], '', now, KEYS[1], KEYS[2])
if decided then return decided end
local _, other, expires = entry_of(KEYS[3])
local r = other and expires > now and load(KEYS[1])
if r then
  local price, amount, _, inside = hold_of(r, KEYS[2], other)
  if price then
    -- Its time is over; should its worker only have been slow, it is not charged either.
    drop_hold(r, KEYS[2], other, price, inside)
    forget(r, amount)
    save(KEYS[1], r)
  end
end
keep_entry(KEYS[3], ARGV[1], REFUSED, now, ANSWER_MS)
return {'ok'}

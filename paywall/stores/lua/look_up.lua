-- What was decided under a payment's id: an answer, or 'ok' when the payment may go on.
-- KEYS  record, holds, entry of the payment's id    ARGV  fingerprint
return once(KEYS[3], ARGV[1], '', now_ms(), KEYS[1], KEYS[2]) or {'ok'}

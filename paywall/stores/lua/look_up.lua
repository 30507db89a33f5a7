-- What was decided under a payment's id: an answer, or 'ok' when the payment may go on.
-- KEYS  holds, entry of the payment's id    ARGV  fingerprint
return once(KEYS[2], KEYS[1], ARGV[1], '', now_ms()) or {'ok'}

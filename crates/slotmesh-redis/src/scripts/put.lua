-- KEYS: value, lease unless it is elsewhere; ARGV: condition, version, value, milliseconds to live or '', '1' to answer what was there
local version = redis.call('GETRANGE', KEYS[1], 0, 7)
version = #version == 8 and version
local condition, wanted = ARGV[1], ARGV[2]
local holds
if condition == 'always' then
  holds = true
elseif condition == 'absent' then
  holds = not version
elseif condition == 'present' then
  holds = version
elseif condition == 'version' then
  holds = version == wanted
elseif condition == 'lease' then
  local lease = KEYS[2] and redis.call('GET', KEYS[2])
  holds = not version and lease and string.sub(lease, 1, 1) == 'L' and string.sub(lease, 10, 17) == wanted
end
local before, left = '', -1
if ARGV[5] == '1' and version then
  before, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
end
if not holds then
  return {0, version or '', version and 1 or 0, before, left}
end
local time = redis.call('TIME')
local number = time[1] * 1000000 + time[2]
local before_this = version and struct.unpack('>I8', version) or 0
-- Numbers are exact up to there; what is beyond is no version of ours.
if before_this < 2 ^ 53 then
  number = math.max(number, before_this + 1)
end
local now = struct.pack('>I8', number)
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], now .. ARGV[3])
else
  redis.call('SET', KEYS[1], now .. ARGV[3], 'PX', ARGV[4])
end
if KEYS[2] then
  redis.call('DEL', KEYS[2])
end
return {1, now, version and 1 or 0, before, left}

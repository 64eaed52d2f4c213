-- KEYS: lease; ARGV: token, 'R' released, 'N' nothing or 'F' failed, milliseconds it is not tried again, milliseconds it is told, message
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, 1) ~= 'L' or string.sub(lease, 2, 9) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'R' then
  redis.call('DEL', KEYS[1])
else
  local time = redis.call('TIME')
  local till = struct.pack('>I8', time[1] * 1000000 + time[2] + ARGV[3] * 1000)
  redis.call('SET', KEYS[1], ARGV[2] .. ARGV[1] .. till .. ARGV[5], 'PX', ARGV[4])
end
return 1

-- KEYS: value, lease; ARGV: who, token, milliseconds the lease lasts, version that counts as nothing or '', token waited for or ''
local version = redis.call('GETRANGE', KEYS[1], 0, 7)
if #version == 8 and version ~= ARGV[4] then
  return {1, redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lease = redis.call('GET', KEYS[2])
if lease and #lease >= 17 then
  local kind, token = string.sub(lease, 1, 1), string.sub(lease, 2, 9)
  if kind == 'L' then
    if string.sub(lease, 18) ~= ARGV[1] then
      return {3, token}
    end
  elseif kind == 'F' then
    local left = struct.unpack('>I8', string.sub(lease, 10, 17)) - now
    if left > 0 or token == ARGV[5] then
      return {4, string.sub(lease, 18), math.max(math.floor(left / 1000), 0)}
    end
  elseif token == ARGV[5] then
    return {5}
  end
end
local since = struct.pack('>I8', now)
redis.call('SET', KEYS[2], 'L' .. ARGV[2] .. since .. ARGV[1], 'PX', ARGV[3])
return {2, since}

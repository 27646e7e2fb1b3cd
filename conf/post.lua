wrk.method = "POST"
wrk.body = string.rep("y", 65536)
wrk.headers["Content-Type"] = "application/json"

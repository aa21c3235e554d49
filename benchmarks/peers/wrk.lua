-- The kit's own request, but the same one every time.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"text_input":"[n:01234567] Tell me in a few plain words","stream":false,"sampling_parameters":"{\\"max_tokens\\":16}"}'

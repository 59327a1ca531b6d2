# Everything is in ./run; this forwards. Arguments: make test ARGS="-k units"
.PHONY: demo test lint docs bench

demo test lint docs bench:
	@./run $@ $(ARGS)

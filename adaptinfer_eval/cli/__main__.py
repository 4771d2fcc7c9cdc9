from adaptinfer_eval.cli import main

main()
